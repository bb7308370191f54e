"""Boards: ranks, versions, suites, and masks beside classes."""

from __future__ import annotations

import random
from typing import Any

import pandas as pd
import pytest

from medtransfer import ranking
from medtransfer.specs.protocol import Protocol, load_protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite
from tests.helpers.boards import (
    CELLS,
    DOMAINS,
    FINETUNED,
    MIXED,
    MIXED_SUITES,
    QUICK,
    SUITES,
    rank,
    submission,
)


def test_identical_encoders_tie() -> None:
    """Equal scores share a rank, and the next rank is skipped."""
    table = rank(submission("z"), submission("c", value=0.7), submission("a")).table
    assert list(zip(table.index, table["rank"], strict=True)) == [("a", 1), ("z", 1), ("c", 3)]


def test_adding_an_encoder_changes_nobodys_score() -> None:
    """Scores depend on the encoder's own records, to the last bit."""
    noise = random.Random(0)
    pool = [submission(name, value=noise.random()) for name in "abc"]
    scores = [column.name for column in rank(*pool).columns]
    before = rank(*pool).table[scores]
    after = rank(*pool, submission("d", value=0.99), submission("e", cells=CELLS[:3])).table
    pd.testing.assert_frame_equal(before, after.loc[before.index, scores], check_exact=True)


def test_another_version_of_the_protocol_is_not_ranked() -> None:
    """A record made under another hash is never ranked beside it; a note says so."""
    old = {"name": "quick", "fingerprint": "0" * 64}
    stale = submission("old", value=0.99, change=lambda _, draft: {**draft, "protocol": old})
    board = rank(stale, submission("new"))
    assert list(board.table.index) == ["new"]
    assert any("another version of the protocol" in note and "old" in note for note in board.notes)


def test_a_protocol_that_is_not_shipped_is_only_noted() -> None:
    """Without the protocol nothing is known to be complete, so nobody is ranked."""
    own = {"name": "mine", "fingerprint": "0" * 64}
    board = rank(submission("a", change=lambda _, draft: {**draft, "protocol": own}))
    assert board.protocol == "mine" and board.table.empty
    assert "Drawn, not seen. " in ranking.render_markdown([board])
    assert "not ranked: 64 records of a" in ranking.render_markdown([board])


def test_other_data_counts_as_missing() -> None:
    """Of several fingerprints of a task the most common one is the board's."""

    def revised(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        if cell.task == "chest":
            draft["task"]["fingerprint"] = "another"
        return draft

    changed = submission("changed", value=0.99, change=revised)
    table = rank(submission("a"), submission("b"), changed).table
    assert list(table.index) == ["a", "b", "changed"]
    assert pd.isna(table.loc["changed", "rank"])
    assert table.loc["changed", "coverage"] == pytest.approx(3 / 4)
    # One against one: the first by name, so "another" before "chest 1".
    board = rank(submission("a"), changed)
    assert list(board.table.index) == ["changed", "a"]
    assert any(note.startswith("chest: ") and "of a." in note for note in board.notes)


def test_one_board_for_each_protocol_and_suite() -> None:
    """Boards follow the order of protocols and suites; tasks in no suite come last.

    A suite that lacks records of a task is left out where its other tasks are shown anyway.
    """
    tasks = {"small": ["chest"], "empty": ["unseen"], "large": ["chest", "shapes"]}
    suites = {name: Suite(tasks=names) for name, names in tasks.items()}
    medmnist = load_protocol("medmnist")
    other = {"name": "medmnist", "fingerprint": medmnist.fingerprint("multiclass", "finetune")}

    def published(cell: Cell, draft: dict[str, Any]) -> dict[str, Any] | None:
        plain = {"in_domain": draft["metrics"]["in_domain"]}
        draft |= {"protocol": other, "metrics": plain}
        return draft if cell == FINETUNED else None

    protocols: dict[str, Protocol] = {"quick": QUICK, "medmnist": medmnist}
    found = ranking.boards([submission("a"), submission("b", change=published)], suites, protocols)
    assert [(board.protocol, board.suite) for board in found] == [
        ("quick", "small"),
        ("quick", "large"),
        ("quick", "other tasks"),
        ("medmnist", "small"),
    ]
    assert [len(board.table) for board in found] == [1] * 4
    few = found[3].table.loc["b"]
    assert few["rank"] == 1 and pd.isna(few["few_shot"]) and pd.isna(few["out_of_domain"])
    assert "Few-shot |" not in ranking.render_markdown([found[3]])
    assert set(ranking.tidy(found)["suite"]) == {"small", "large", "other tasks"}


def test_masks_and_classes_are_averaged_by_the_same_rule() -> None:
    """Chance of a Dice is 0, of an AUROC .5; then the mean over tasks, then over domains."""

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        draft["metrics"]["in_domain"] = (
            {"auroc": 0.9, "n": 9} if cell.task == "chest" else {"dice": 0.6, "n": 9}
        )
        return draft

    boards = ranking.boards(
        [submission("a", cells=MIXED, change=change)], MIXED_SUITES, {"quick": QUICK}
    )
    whole, classes, masks = (board.table.loc["a"] for board in boards)
    chest = (0.9 - 0.5) / 0.5
    assert whole["in_domain"] == pytest.approx(((chest + 0.6) / 2 + 0.6) / 2)
    assert whole["classification"] == classes["in_domain"] == pytest.approx(chest)
    assert whole["segmentation"] == masks["in_domain"] == pytest.approx(0.6)
    # A Dice is its own score: one tenth, and two tenths, worse than what `record` was given.
    assert masks["out_of_domain"] == pytest.approx(((0.8 - 0.1) + (0.8 - 0.2)) / 2)
    assert masks["frozen"] == masks["finetuned"] == pytest.approx(0.6)


def test_each_kind_of_a_mixed_suite_has_a_board() -> None:
    """Who gives no maps has no rank on the whole suite, and its rank on classification."""
    plain = [cell for cell in MIXED if cell.task == "chest"]
    boards = ranking.boards(
        [submission("maps", cells=MIXED), submission("vector", cells=plain, value=0.9)],
        MIXED_SUITES,
        {"quick": QUICK},
    )
    assert [board.kind for board in boards] == ["", "classification", "segmentation"]
    ranks = [board.table["rank"].dropna().to_dict() for board in boards]
    assert ranks == [{"maps": 1}, {"vector": 1, "maps": 2}, {"maps": 1}]
    assert "vector" not in boards[2].table.index
    page = ranking.render_markdown(boards)
    assert "suite mixed, classification only" in page
    assert page.count("### lungs") == 1, "single tasks stand on the whole suite's board alone"
    table = ranking.tidy(boards)
    assert table["kind"].tolist() == ["", "", "classification", "classification", "segmentation"]
    # A suite of one kind is its own board.
    assert rank(submission("a")).kind == ""


def test_a_part_of_a_mixed_suite_needs_its_unrun_tasks_too() -> None:
    """A task that nobody ran is missing from its kind; of unknown kind, from both."""
    suites = {"mixed": Suite(tasks=["chest", "slices", "lungs", "polyps"])}
    some = [cell for cell in MIXED if cell.task in ("chest", "lungs")]
    for kinds in ({"slices": "multiclass", "polyps": "segmentation"}, {}):
        [board] = ranking.boards(
            [submission("a", cells=some)], suites, {"quick": QUICK}, kinds=kinds
        )
        assert board.kind == "" and board.table["rank"].isna().all()
        # Of masks there are four cells a task, of classes sixteen.
        assert board.table["expected"].item() == (40 if kinds else 52)
    # Masks that nobody drew make no board of their own, and do not hide classification's.
    classes = [cell for cell in CELLS if cell.task in ("chest", "slices")]
    whole, plain = ranking.boards(
        [submission("a", cells=classes)],
        suites,
        {"quick": QUICK},
        kinds={"lungs": "segmentation", "polyps": "segmentation"},
    )
    assert whole.table["rank"].isna().all() and plain.kind == "classification"
    assert plain.table.loc["a", "rank"] == 1


def test_optional_adaptations_change_no_rank() -> None:
    """They are shown beside the ranked ones, over the tasks that have all of them."""
    extra = [Cell(task, "full", "lora", 0) for task in ("chest", "slices")]
    partial = [Cell("chest", "full", "partial", 0)]

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        value = {"lora": 0.95, "finetune": 0.85}.get(cell.adaptation, 0.75)
        draft["metrics"]["in_domain"]["auroc"] = value
        draft["cost"] |= {"trainable_parameters": 7 if cell.adaptation == "lora" else 1000}
        return draft

    plain = rank(submission("a", change=change), submission("b", value=0.81))
    more = rank(
        submission("a", change=change, cells=[*CELLS, *extra, *partial]),
        submission("b", value=0.81),
        submission("c", cells=extra),
    )
    ranks = ["rank", "in_domain", "full", "have", "expected", "adaptation_flops"]
    pd.testing.assert_frame_equal(more.table.loc[["b", "a"], ranks], plain.table[ranks])
    assert pd.isna(more.table.loc["c", "rank"])
    side = more.adaptations.set_index(["encoder", "budget", "adaptation"])
    assert set(side.index) == {
        *(("a", "full", name) for name in ("knn", "linear", "finetune", "lora", "partial")),
        ("c", "full", "lora"),
    }
    assert side.loc[("a", "full", "lora"), "tasks"] == 1  # only chest has all five
    assert side.loc[("a", "full", "lora"), "in_domain"] == pytest.approx(0.9)
    assert side.loc[("a", "full", "finetune"), "in_domain"] == pytest.approx(0.7)
    assert side.loc[("a", "full", "lora"), "trainable_parameters"] == 7
    assert side.loc[("a", "full", "lora"), "draws"] == 1
    assert side.loc[("c", "full", "lora"), "tasks"] == 2
    page = ranking.render_markdown([more])
    assert "### Optional adaptations beside" in page and "lora full" in page
    missing = page.split("### Unranked")[1]
    assert f"0 of {len(CELLS)} cells" in missing and f"chest {len(CELLS) // 4}" in missing


def test_a_suite_with_budgets_needs_these_alone() -> None:
    """Without the full budget an encoder is complete on the few-shot board, and only there."""
    few = Suite(tasks=list(DOMAINS), budgets=["1-shot", "10-shot"])
    shots = submission("a", change=lambda cell, draft: None if cell.budget == "full" else draft)
    suites = {**SUITES, "few-shot": few}
    everything, part = ranking.boards([shots, submission("b")], suites, {"quick": QUICK})
    assert pd.isna(everything.table.loc["a", "rank"]) and everything.table.loc["b", "rank"] == 1
    assert part.table.loc[["a", "b"], "coverage"].tolist() == [1.0, 1.0]
    assert part.table.loc[["a", "b"], "rank"].tolist() == [1, 1]
