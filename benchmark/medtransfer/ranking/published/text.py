"""A published board as text, before any markup: what Markdown and the page say alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from medtransfer.core.text import MISSING
from medtransfer.ranking.published.board import PublishedBoard
from medtransfer.ranking.published.study import Finding

__all__ = [
    "HOW_FINDINGS_ARE_READ",
    "claims",
    "holds",
    "summarise",
    "tabulate_comparisons",
    "tabulate_target",
]

HOW_FINDINGS_ARE_READ = (
    "A finding is shown when all of its comparisons are as claimed. Difference: first encoder "
    "minus second, over n draws that both have, with its 95 % interval (paired t). Not resolved: "
    "the interval holds 0. Place: of either encoder by the mean of that metric, among those with "
    "all draws."
)


def claims(board: PublishedBoard) -> Iterator[tuple[Finding, pd.DataFrame]]:
    """Each finding of the study with its comparisons."""
    for number, finding in enumerate(board.study.findings):
        yield finding, board.findings[board.findings["finding"] == number]


def holds(comparisons: pd.DataFrame) -> bool:
    """Whether every comparison of a finding is as claimed."""
    return bool(comparisons["verdict"].eq("as claimed").all())


def summarise(comparisons: pd.DataFrame) -> list[str]:
    """One line per expectation: how many comparisons hold, and how large the differences are."""
    lines = []
    by = ["budget", "metric", "expected"]
    for (budget, metric, side), part in comparisons.groupby(by, sort=False):
        counts = part["verdict"].value_counts()
        others = [
            f"{counts[verdict]} {verdict}"
            for verdict in ("opposite", "not resolved", "no data")
            if verdict in counts
        ]
        held = f"{counts.get('as claimed', 0)} of {len(part)} {side}"
        low, high = _signed(part["difference"].min()), _signed(part["difference"].max())
        span = f"{low} to {high}" if len(part) > 1 else low
        lines.append(f"{budget}, {metric}: {', '.join([held, *others])}; difference {span}")
    return lines


def tabulate_comparisons(comparisons: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The comparisons of a finding as a table's head and rows."""
    head = ["Encoders", "Target", "Budget", "Metric", "Difference", "95 % interval", "n", "Place"]
    rows = [
        [
            f"{row['a']} - {row['b']}",
            row["task"],
            row["budget"],
            row["metric"],
            _signed(row["difference"]),
            f"{_signed(row['low'])} to {_signed(row['high'])}",
            str(row["n"]),
            f"{_place(row['rank_a'])}, {_place(row['rank_b'])} of {_place(row['ranked'])}",
            row["verdict"],
        ]
        for _, row in comparisons.iterrows()
    ]
    return [*head, "Verdict"], rows


def tabulate_target(
    board: PublishedBoard, task: str
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each metric of a target its title, and encoders by budgets: a table's head and rows."""
    own = board.results[board.results["task"] == task]
    for metric, part in own.groupby("metric", sort=False):
        primary = " (primary)" if metric == board.study.target_cards[task].metric else ""
        entries = {(row.encoder, row.budget): _result(row) for row in part.itertuples()}
        present = {encoder for encoder, _ in entries}
        budgets = [b for b in board.study.ordered_budgets if b in set(part["budget"])]
        rows = [
            [encoder, *(entries.get((encoder, budget), MISSING) for budget in budgets)]
            for encoder in board.study.encoder_cards
            if encoder in present
        ]
        yield f"{metric}{primary}", ["Encoder", *budgets], rows


def _result(row: Any) -> str:
    if row.have < row.draws:
        return f"{row.have}/{row.draws} draws"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.3f}"
    return f"{row.mean:.3f}{spread}{' †' if row.marked else ''}"


def _signed(value: float) -> str:
    return MISSING if pd.isna(value) else f"{round(value, 3) + 0.0:+.3f}"


def _place(rank: float) -> str:
    return MISSING if pd.isna(rank) else f"{rank:.0f}"
