"""Scores of encoders: means of means, and what is missing from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from statistics import mean
from typing import Any

import pandas as pd
import pytest

from medtransfer import ranking
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite
from tests.helpers.boards import (
    CELLS,
    DIVERGED,
    DOMAINS,
    FAILURE,
    FINETUNED,
    SKIPPED,
    Change,
    at,
    rank,
    submission,
    without,
)


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
