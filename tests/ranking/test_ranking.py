"""The ranking: records in, tables and files out."""

from __future__ import annotations

import csv
import io
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from medtransfer import ranking
from medtransfer.core.errors import InputError
from medtransfer.ranking import Board, Submission
from medtransfer.ranking.report.files import csv_field
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol, load_protocol
from medtransfer.specs.record import Cell, Record, read_records
from medtransfer.specs.task import Suite
from tests.conftest import Bench

QUICK = load_protocol("quick")
DOMAINS = {"shapes": "natural", "chest": "chest-xray", "slices": "ct", "retina": "oct"}
MASKS = {"lungs": "chest-xray", "polyps": "endoscopy"}
SUITES = {"phantom": Suite(title="Drawn, not seen", tasks=list(DOMAINS))}
CELLS = [
    Cell(task, budget, adaptation, draw)
    for task in DOMAINS
    for adaptation in QUICK.ranked
    for budget, draws in QUICK.budgets(adaptation, "multiclass").items()
    for draw in range(draws)
]


def segmentation_cells(task: str) -> list[Cell]:
    return [
        Cell(task, budget, adaptation, draw)
        for adaptation in QUICK.adaptations("segmentation")
        for budget, draws in QUICK.budgets(adaptation, "segmentation").items()
        for draw in range(draws)
    ]


Change = Callable[[Cell, dict[str, Any]], dict[str, Any] | None]


def card(name: str, **fields: Any) -> EncoderCard:
    return EncoderCard.model_validate(
        {"name": name, "title": f"The {name}", "architecture": {"timm": "resnet18"}, **fields}
    )


def record(encoder: str, cell: Cell, *, value: float = 0.8, **fields: Any) -> dict[str, Any]:
    """The JSON of one ``ok`` record; the out-of-domain splits are a tenth and two tenths worse."""
    masks = cell.task in MASKS
    kind, metric = ("segmentation", "dice") if masks else ("multiclass", "auroc")
    return {
        "schema": 1,
        "encoder": {"name": encoder, "sha256": f"sha of {encoder}"},
        "task": {
            "name": cell.task,
            "fingerprint": f"{cell.task} 1",
            "domain": (DOMAINS | MASKS).get(cell.task, "natural"),
            "kind": kind,
            "metric": metric,
            "chance": 0.0 if masks else 0.5,
        },
        "protocol": {"name": "quick", "fingerprint": QUICK.fingerprint(kind, cell.adaptation)},
        "budget": cell.budget,
        "adaptation": cell.adaptation,
        "draw": cell.draw,
        "status": "ok",
        "metrics": {
            "in_domain": {metric: value, "n": 400},
            "scanner": {metric: value - 0.1, "n": 400},
            "corrupted/blur/1": {metric: value - 0.1, "n": 400},
            "corrupted/blur/5": {metric: value - 0.3, "n": 400},
        },
        "cost": {
            "adaptation_flops": 10**12,
            "inference_flops_per_image": 3_640_000_000,
            "parameters": 11_700_000,
            "trainable_parameters": 1000,
            "images_seen": 100,
            "seconds": 2.5,
            "peak_memory_bytes": 10**9,
            "device": "cpu",
        },
        "started": "2025-01-01T00:00:00Z",
        "finished": "2025-01-01T00:00:01Z",
        **fields,
    }


def submission(
    name: str,
    *,
    value: float = 0.8,
    change: Change = lambda cell, fields: fields,
    cells: Iterable[Cell] = CELLS,
    **fields: Any,
) -> Made:
    """An encoder with a record of every cell; ``change`` alters or (null) drops one."""
    drafts = (change(cell, record(name, cell, value=value)) for cell in cells)
    return made(card(name, **fields), [Record.model_validate(draft) for draft in drafts if draft])


@dataclass(frozen=True)
class Made(Submission):
    """A submission that knows the records it was made of."""

    records: tuple[Record, ...] = ()


def made(card: EncoderCard, records: Sequence[Record], folder: Path | None = None) -> Made:
    plain = Submission.of(card, records, folder=folder)
    return Made(**vars(plain), records=tuple(records))


def rank(*submissions: Submission, suites: dict[str, Suite] = SUITES) -> Board:
    [board] = ranking.boards(submissions, suites, {"quick": QUICK})
    return board


def at(cell: Cell, **fields: Any) -> Change:
    """Give one cell other fields."""
    return lambda this, draft: {**draft, **fields} if this == cell else draft


def without(cell: Cell) -> Change:
    return lambda this, draft: None if this == cell else draft


def save(folder: Path, *submissions: Made) -> Path:
    for one in submissions:
        path = folder / one.card.name
        path.mkdir(parents=True)
        (path / "encoder.yaml").write_text(yaml.safe_dump(one.card.model_dump(mode="json")))
        (path / "records.jsonl").write_text("".join(f"{r.line()}\n" for r in one.records))
    return folder


FINETUNED = Cell("chest", "full", "finetune", 0)
FAILURE = {"status": "failed", "metrics": {}, "cost": None, "error": "out of memory"}
DIVERGED = {"status": "diverged", "metrics": {}}
SKIPPED = {"status": "not_applicable", "metrics": {}, "cost": None}


# Scores


def test_scores_of_one_value_everywhere() -> None:
    """0.8 AUROC is a score of 0.6; the corrupted splits (mean .6) count as one beside scanner."""
    table = rank(submission("a")).table.loc["a"]
    for view in ["in_domain", "few_shot", "full", "frozen", "finetuned", "domain_ct"]:
        assert table[view] == pytest.approx(0.6)
    assert table["out_of_domain"] == pytest.approx((0.4 + 0.2) / 2)
    assert table["gap"] == pytest.approx(0.3)
    assert table["adaptation_flops"] == len(CELLS) * 10**12
    assert table["seconds"] == pytest.approx(len(CELLS) * 2.5)
    assert (table["coverage"], table["device"]) == (1.0, "cpu")


def test_overall_is_a_mean_of_domains_of_tasks_of_budgets_of_draws() -> None:
    """Neither many draws nor many tasks of a domain outweigh the others."""
    values = {"shapes": 0.5, "chest": 0.6, "slices": 0.7, "retina": 1.0}

    def vary(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        value = values[cell.task] if cell.budget != "1-shot" else 0.5
        draft["task"]["domain"] = "ct" if cell.task in ("slices", "retina") else "natural"
        return {**draft, "metrics": {"in_domain": {"auroc": value}}}

    row = rank(submission("a", change=vary)).table.loc["a"]
    # Of the 8 pairs of budget and adaptation 2 are 1-shot, at chance whatever the task.
    means = {task: 2 * (value - 0.5) * 6 / 8 for task, value in values.items()}
    assert row["domain_ct"] == pytest.approx((means["slices"] + means["retina"]) / 2)
    natural = (means["shapes"] + means["chest"]) / 2
    assert row["in_domain"] == pytest.approx((natural + row["domain_ct"]) / 2)


def plain_mean(values: Iterable[tuple[Cell, float]]) -> float:
    """By nested loops: over draws, then budgets and adaptations, then tasks, then domains."""
    tree: dict[str, dict[str, dict[tuple[str, str], list[float]]]] = {}
    for cell, value in values:
        task = tree.setdefault(DOMAINS[cell.task], {}).setdefault(cell.task, {})
        task.setdefault((cell.budget, cell.adaptation), []).append(value)
    return mean(
        mean(mean(mean(draws) for draws in groups.values()) for groups in tasks.values())
        for tasks in tree.values()
    )


def test_scores_are_those_of_a_plain_loop() -> None:
    """Every column of a score, for random values and an encoder at home on two domains."""
    noise = random.Random(3)
    inside = {cell: noise.random() for cell in CELLS}
    outside = {cell: [noise.random() for _ in range(3)] for cell in CELLS}

    def vary(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        values = dict(
            zip(("scanner", "corrupted/a/1", "corrupted/b/1"), outside[cell], strict=True)
        )
        metrics = {"in_domain": inside[cell], **values}
        return draft | {"metrics": {name: {"auroc": value} for name, value in metrics.items()}}

    own = {"pretraining": {"domains": ["ct", "oct"], "objective": "supervised"}}
    row = rank(submission("a", change=vary, **own)).table.loc["a"]

    def score(values: dict[Cell, float], chosen: Callable[[Cell], bool] = bool) -> float:
        return plain_mean((c, (v - 0.5) / 0.5) for c, v in values.items() if chosen(c))

    def at_home(cell: Cell) -> bool:
        return DOMAINS[cell.task] in ("ct", "oct")

    corrupted = {cell: mean(values[1:]) for cell, values in outside.items()}
    external = {cell: values[0] for cell, values in outside.items()}
    elsewhere = {cell: (external[cell] + corrupted[cell]) / 2 for cell in CELLS}
    expected = {
        "in_domain": score(inside),
        "out_of_domain": score(elsewhere),
        "gap": score(inside) - score(elsewhere),
        "few_shot": score(inside, lambda c: c.budget != "full"),
        "full": score(inside, lambda c: c.budget == "full"),
        "frozen": score(inside, lambda c: c.adaptation in ("knn", "linear")),
        "finetuned": score(inside, lambda c: c.adaptation == "finetune"),
        "intra_few_shot": score(inside, lambda c: at_home(c) and c.budget != "full"),
        "intra_full": score(inside, lambda c: at_home(c) and c.budget == "full"),
        "inter_few_shot": score(inside, lambda c: not at_home(c) and c.budget != "full"),
        "inter_full": score(inside, lambda c: not at_home(c) and c.budget == "full"),
        "external": score(external),
        "corrupted": score(corrupted),
        "domain_ct": score(inside, lambda c: DOMAINS[c.task] == "ct"),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_tasks_without_out_of_domain_splits_are_left_out_of_it() -> None:
    """Out-of-domain and gap are taken over the same tasks, for everyone."""

    def plain(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        if cell.task != "chest":
            draft["metrics"] = {"in_domain": {"auroc": 1.0}}
        return draft

    row = rank(submission("a", change=plain)).table.loc["a"]
    assert row["in_domain"] == pytest.approx((3 * 1.0 + 0.6) / 4)
    assert row["out_of_domain"] == pytest.approx(0.3)
    assert row["gap"] == pytest.approx(0.3)


def test_below_chance_is_shown_negative() -> None:
    """A score below chance is never clipped, flipped or dropped."""
    board = rank(submission("a", value=0.35))
    assert board.table.loc["a", "in_domain"] == pytest.approx(-0.3)
    assert "| 1 | a | -0.300 |" in ranking.render_markdown([board])
    assert "quick,phantom,,1,a,The a,1,-0.3," in ranking.render_csv([board])


def test_diverged_scores_chance_on_every_split() -> None:
    """Divergence is a result: the encoder stays complete, that cell scores 0 on all splits."""
    diverged = submission("a", change=at(FINETUNED, **DIVERGED))
    results = rank(diverged, submission("b")).results
    mine = results.query("encoder == 'a' and diverged > 0")
    assert sorted(mine["split"]) == ["corrupted", "in_domain", "scanner"]
    assert (mine["mean"] == 0.5).all() and (mine["have"] == 1).all()
    table = rank(diverged, submission("b")).table
    assert table.loc["a", "rank"] == 2
    assert table.loc["a", "domain_chest-xray"] == pytest.approx(0.6 * 7 / 8)
    assert "0.500 (diverged)" in ranking.render_markdown([rank(diverged)])


# Missing


@pytest.mark.parametrize(
    "change",
    [
        without(FINETUNED),
        at(FINETUNED, **FAILURE),
        at(FINETUNED, metrics={"in_domain": {"auroc": None}}),
        at(FINETUNED, metrics={}),
    ],
    ids=["absent", "failed", "null", "no metrics"],
)
def test_incomplete_is_unranked(change: Change) -> None:
    """One missing cell, however it is missing: no rank, no score, below the ranked ones."""
    board = rank(submission("best", value=0.99, change=change), submission("worst", value=0.6))
    assert list(board.table.index) == ["worst", "best"]
    row = board.table.loc["best"]
    assert pd.isna(row["rank"])
    scores = [column.name for column in board.columns if column.unit == "score"]
    assert row[scores].isna().all()
    assert (row["have"], row["expected"]) == (len(CELLS) - 1, len(CELLS))
    assert f"| best | {len(CELLS) - 1} of {len(CELLS)} cells | chest 1 |" in (
        ranking.render_markdown([board])
    )


def test_missing_draws_give_no_mean() -> None:
    """A per-task entry with some of its draws shows their number, not their mean."""
    board = rank(submission("a", change=without(Cell("chest", "1-shot", "knn", 2))))
    results = board.results.query("task == 'chest' and budget == '1-shot' and adaptation == 'knn'")
    assert results["mean"].isna().all()
    assert "| a | 2/3 draws | 0.800 ± 0.000 |" in ranking.render_markdown([board])


def test_the_protocol_orders_the_columns() -> None:
    """An encoder that lacks the first cells does not move the columns of a task's table."""
    partial = submission("a", cells=[cell for cell in CELLS if cell.adaptation != "knn"])
    text = ranking.render_markdown([rank(partial, submission("b"))])
    assert "| Encoder | knn 1-shot | knn 10-shot | knn full | linear 1-shot |" in text
    text = ranking.render_markdown([rank(partial)])
    assert "| Encoder | linear 1-shot | linear 10-shot | linear full | finetune 10-shot |" in text


def test_a_task_of_the_suite_that_nobody_ran_is_missing() -> None:
    """The suite says what is expected, not the records."""
    board = rank(submission("a"), suites={"phantom": Suite(tasks=[*DOMAINS, "unseen"])})
    assert board.table["rank"].isna().all()
    assert board.table.loc["a", "coverage"] == pytest.approx(4 / 5)
    assert "No encoder has every cell" in ranking.render_markdown([board])


def test_null_out_of_domain_metric_stays_null() -> None:
    """A null on another split empties the out-of-domain columns and leaves the rank alone."""
    metrics = {"in_domain": {"auroc": 0.8}, "scanner": {"auroc": None}}
    row = rank(submission("a", change=at(FINETUNED, metrics=metrics))).table.loc["a"]
    assert row["rank"] == 1 and row["in_domain"] == pytest.approx(0.6)
    assert pd.isna(row["out_of_domain"]) and pd.isna(row["gap"])


def test_not_applicable_leaves_the_expectation_for_all() -> None:
    """What one record calls not applicable is expected from nobody, and does not count."""
    saying = submission("a", change=at(FINETUNED, **SKIPPED))
    lacking = submission("b", change=without(FINETUNED))
    having = submission("c", change=at(FINETUNED, metrics={"in_domain": {"auroc": 1.0}}))
    board = rank(saying, lacking, having)
    assert list(board.table["rank"]) == [1, 1, 1]
    assert set(board.table["expected"]) == {len(CELLS) - 1}
    assert "chest: full does not apply, for any encoder (finetune)." in board.notes


# Ranks


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


# Versions


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


MIXED = [Cell("chest", *cell[1:]) for cell in CELLS if cell.task == "chest"]
MIXED += [*segmentation_cells("lungs"), *segmentation_cells("polyps")]
MIXED_SUITES = {"mixed": Suite(tasks=["chest", "lungs", "polyps"])}


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


# Submissions on disk


def test_order_of_files_and_lines_does_not_matter(tmp_path: Path) -> None:
    """The same submissions give the same bytes, however they lie in folders and ledgers."""
    noise = random.Random(0)

    def vary(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return draft | {"metrics": {"in_domain": {"auroc": noise.random()}, "b": {"auroc": 0.5}}}

    pool = [submission(name, change=vary) for name in "abc"]
    save(tmp_path / "one", *pool)
    shuffled = [made(s.card, noise.sample(s.records, len(s.records))) for s in pool]
    save(tmp_path / "two", *shuffled[2:])
    save(tmp_path / "three", *shuffled[:2])
    texts = []
    for folders in [["one"], ["two", "three"], ["three", "two"]]:
        submissions = ranking.load_submissions([tmp_path / folder for folder in folders])
        found = ranking.boards(submissions, SUITES, {"quick": QUICK})
        texts.append((ranking.render_markdown(found), ranking.render_csv(found)))
    assert texts[0] == texts[1] == texts[2]


def test_parts_of_one_encoder_are_merged(tmp_path: Path) -> None:
    """The first settled record of a cell stands, in the order of the folders."""
    failed = submission("a", change=at(FINETUNED, **FAILURE), cells=CELLS[:-1])
    save(tmp_path / "one", failed)
    save(tmp_path / "two", submission("a", value=0.9))
    save(tmp_path / "one", submission("b", value=0.7))
    (tmp_path / "one" / ".cache").mkdir()
    (tmp_path / "one" / "__pycache__").mkdir()
    (tmp_path / "one" / "README.md").touch()
    merged, other = ranking.load_submissions([tmp_path / "one", tmp_path / "two"])
    cells = merged.cells[list(Cell._fields)].itertuples(index=False, name=None)
    inside = merged.values[merged.values["split"] == "in_domain"].set_index("cell")["value"]
    values = {Cell(*cell): inside[number] for number, cell in enumerate(cells)}
    assert set(values) == set(CELLS)
    assert {cell for cell, value in values.items() if value == 0.9} == {FINETUNED, CELLS[-1]}
    assert rank(merged, other).table["rank"].tolist() == [1, 2]


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and ranked by two processes, the boards are the same to the last bit."""
    save(tmp_path, *(submission(name, value=0.6 + 0.1 * n) for n, name in enumerate("abc")))
    one = ranking.load_submissions([tmp_path])
    monkeypatch.setattr("medtransfer.ranking.records.submissions._MUCH", 0)
    monkeypatch.setattr("medtransfer.ranking.statistics.bootstrap._MUCH", 0)
    two = ranking.load_submissions([tmp_path], processes=2)
    for first, second in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(first.cells, second.cells)
        pd.testing.assert_frame_equal(first.values, second.values)
    tables = [
        ranking.boards(found, SUITES, {"quick": QUICK}, processes=number)[0].table
        for number, found in ((1, one), (2, two))
    ]
    pd.testing.assert_frame_equal(*tables)
    (tmp_path / "b" / "records.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"b.records.jsonl: line 1: encoder: required"):
        ranking.load_submissions([tmp_path], processes=2)


def test_folders_that_are_something_else(tmp_path: Path, bench: Bench) -> None:
    """A submission instead of its folder, a study out of place, two copies: each is said."""
    folder, out = save(tmp_path / "all", submission("a")), tmp_path / "out"
    outcome = bench("leaderboard", "--submissions", folder / "a", "--out", out)
    assert outcome.code == 2 and f"the folder that it is in, {folder}" in outcome.err
    shutil.copytree(folder / "a", folder / "copy")
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 0
    places = f"{folder / 'a'} and {folder / 'copy'}"
    assert f"note: a is in {places}: taken as one" in outcome.out
    (folder / "study").mkdir()
    (folder / "study" / "study.yaml").touch()
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 2 and "its place is in a folder called published" in outcome.err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"metrics": {"in_domain/x": {"auroc": 1.0}}}, "metrics.in_domain/x: only in_domain is"),
        ({"metrics": {"in_domain": {"auroc": 1.3}}}, "metrics.in_domain.auroc: 1.3"),
        ({"task": record("a", CELLS[0])["task"] | {"chance": 0.9}}, "task.chance: 0.9; auroc has"),
    ],
)
def test_records_that_would_move_others_are_refused(part: dict[str, Any], message: str) -> None:
    """Chance is the metric's, and what is in-domain is one split: nobody else sets them."""
    with pytest.raises(ValidationError, match=message):
        Record.model_validate({**record("a", CELLS[0]), **part})


def test_the_last_failure_is_shown(tmp_path: Path) -> None:
    """Of several tries that all failed the last one stands, as in the ledger."""
    one = submission("a", change=at(FINETUNED, **FAILURE | {"error": "first"}))
    two = submission("a", change=at(FINETUNED, **FAILURE | {"error": "last"}))
    path = save(tmp_path, one) / "a" / "records.jsonl"
    path.write_text(path.read_text() + "".join(f"{r.line()}\n" for r in two.records))
    [merged] = ranking.load_submissions([tmp_path])
    assert len(merged.cells) == len(CELLS)
    assert rank(merged).table.loc["a", "error"] == "last"
    assert {r.error for r in read_records(path)} == {None, "last"}


def test_wrong_submissions_are_refused(tmp_path: Path) -> None:
    """Each error names the folder and what is wrong with it."""

    def other(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "encoder": {"name": "a", "sha256": "other weights"}}

    one, two = save(tmp_path / "one", submission("a")), tmp_path / "two"
    save(two, submission("a", change=other))
    with pytest.raises(InputError, match=r"two.a: encoder.sha256: .*one name 'a'"):
        ranking.load_submissions([one, two])
    with pytest.raises(InputError, match="three: no such folder"):
        ranking.load_submissions([tmp_path / "three"])
    (one / "a" / "encoder.yaml").write_text("name: b\narchitecture: {timm: resnet18}\n")
    with pytest.raises(InputError, match=r"records.jsonl: encoder.name: 'a' in a record.*'b' in"):
        ranking.load_submissions([one])
    (one / "a" / "encoder.yaml").unlink()
    with pytest.raises(InputError, match=r"one.a: holds no encoder.yaml"):
        ranking.load_submissions([one])


# Text


def test_text_of_others_is_escaped() -> None:
    """Nothing that a card or a record says becomes markup or a formula."""
    nasty = "=1+1 | <script>`x`</script>\n# [a](b) *c* _d_"
    device = record("b", CELLS[0])["cost"] | {"device": "a|b"}
    title = submission("a", title=nasty, change=lambda _, draft: {**draft, "cost": device})
    error = submission("b", change=at(FINETUNED, **FAILURE | {"error": nasty}))
    board = rank(title, error)
    text = ranking.render_markdown([board])
    escaped = r"=1+1 \| &lt;script&gt;\`x\`&lt;/script&gt; # \[a\](b) \*c\* \_d\_"
    assert text.count(escaped) == 2 and r"a\|b" in text
    assert "<script>" not in text and "\n# [" not in text
    [row] = [r for r in csv.DictReader(io.StringIO(ranking.render_csv([board]))) if r["rank"]]
    assert row["title"].startswith("'=1+1 | <script>")
    assert ranking.escape("a\r\n\tb\u2028c\\") == r"a b c\\"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.25, "-0.25"),
        (-1e-9, "0.0"),
        (1 / 3, "0.333333"),
        (2.0e16, "20000000000000000"),
        (None, ""),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("+x", "'+x"),
        ("x-y", "x-y"),
    ],
)
def test_values_in_the_csv(value: Any, text: str) -> None:
    """Six decimals, whole numbers exact, null empty; only text can need an apostrophe."""
    assert csv_field(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-0.0004, "score", "0.000"),
        (3_640_000_000, "FLOP", "3.6 GFLOP"),
        (999.99e9, "FLOP", "1.0 TFLOP"),
        (45_100_000, "count", "45.1 M"),
        (512, "count", "512"),
        (1_900_000_000, "bytes", "1.9 GB"),
        (95.04, "seconds", "95.0 s"),
        (1800, "seconds", "30 min"),
        (7560, "seconds", "2.1 h"),
        (float("nan"), "FLOP", "-"),
    ],
)
def test_quantities_for_people(value: float, unit: Any, text: str) -> None:
    """Numbers keep two to four digits and carry their unit."""
    assert ranking.quantity(value, unit) == text


def test_relations_come_from_the_card() -> None:
    """Intra, inter and none are computed; undeclared is unknown."""
    known = submission("a", pretraining={"domains": ["ct"], "objective": "supervised"})
    board = rank(known, submission("b", value=0.7))
    table = ranking.tidy([board]).set_index("encoder")
    assert table.loc["a", ["relation_ct", "relation_oct"]].tolist() == ["intra", "inter"]
    text = ranking.render_markdown([board])
    assert "| 1 | a | 0.600 | 0.600 (intra) |" in text
    assert "| 2 | b | 0.400 (unknown) |" in text


def test_check_finds_a_changed_byte(tmp_path: Path) -> None:
    """What was written is current; one other byte, or a missing file, is not."""
    one = submission("a")
    found, cards = [rank(one)], {"a": one.card}
    out, names = tmp_path / "leaderboard", ["README.md", "leaderboard.csv", "scores.csv"]
    names += ["index.html"]
    names += ["figures/quick_phantom_scores.svg", "figures/quick_phantom_curves.svg"]
    assert ranking.check_leaderboard(found, out, cards=cards) == names
    assert ranking.write_leaderboard(found, out, cards=cards) == names
    there = [path.relative_to(out).as_posix() for path in out.rglob("*.*")]
    assert sorted(there) == sorted(names)
    assert ranking.check_leaderboard(found, out, cards=cards) == []
    table = out / "leaderboard.csv"
    table.write_bytes(table.read_bytes().replace(b"0.6", b"0.7", 1))
    assert ranking.check_leaderboard(found, out, cards=cards) == ["leaderboard.csv"]


def test_leaderboard_takes_the_shipped_suites_and_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python interface: folders in, one row per board and encoder out."""
    monkeypatch.setattr(ranking, "load_suites", lambda: SUITES)
    save(tmp_path, submission("a"), submission("b", value=0.7))
    table = ranking.leaderboard(tmp_path)
    assert table[["protocol", "suite", "rank", "encoder"]].to_numpy().tolist() == [
        ["quick", "phantom", 1, "a"],
        ["quick", "phantom", 2, "b"],
    ]
    pd.testing.assert_frame_equal(table, ranking.leaderboard([tmp_path]))


def test_no_records_at_all() -> None:
    """An empty leaderboard is a page, not an error."""
    assert ranking.boards([], SUITES, {"quick": QUICK}) == []
    empty = made(card("a"), [])
    assert ranking.boards([empty], SUITES, {"quick": QUICK}) == []
    assert "No records yet" in ranking.render_markdown([])
    assert ranking.render_csv([]).startswith("protocol,suite,kind,rank,encoder")


# Summary


def test_summary_compares_the_same_cells() -> None:
    """Only encoders with all the given cells, protocol and data are shown, best first."""
    cells = {cell for cell in CELLS if cell.task in ("chest", "slices")}
    fingerprints = {"chest": "chest 1", "slices": "slices 1"}

    def revised(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "task": {**draft["task"], "fingerprint": "another"}}

    pool = [
        submission("low", value=0.7, cells=cells),
        submission("high", value=0.9),
        submission("partial", value=0.99, change=without(FINETUNED)),
        submission("revised", value=0.99, change=revised),
    ]
    table = ranking.summary(pool, cells=cells, protocol=QUICK, fingerprints=fingerprints)
    assert list(table["encoder"]) == ["high", "low"]
    assert list(table.columns[1:]) == [
        "in_domain",
        "out_of_domain",
        "chest",
        "slices",
        "adaptation_flops",
    ]
    assert table["in_domain"].tolist() == pytest.approx([0.8, 0.4])
    assert table["chest"].tolist() == pytest.approx([0.9, 0.7])
    assert table["adaptation_flops"].tolist() == [len(cells) * 10**12] * 2
    board, _ = ranking.boards(pool[:2], {"two": Suite(tasks=["chest", "slices"])}, {"quick": QUICK})
    assert table["in_domain"].tolist() == board.table["in_domain"].tolist()


def test_summary_of_nothing() -> None:
    """Nobody has the cells: an empty table, not an error."""
    nothing = ranking.summary([], cells={FINETUNED}, protocol=QUICK, fingerprints={"chest": "x"})
    assert nothing.empty


# Boundaries


def test_ranking_imports_no_torch() -> None:
    """`bench leaderboard` starts fast: the ranking knows records, not models."""
    code = "import sys, medtransfer.ranking; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
