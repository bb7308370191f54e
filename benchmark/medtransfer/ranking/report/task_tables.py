"""The primary metric itself, task by task: what stands behind the scores of a board."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medtransfer.core.text import MISSING, escape, pipe_table
from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.records.frame import IN_DOMAIN

__all__ = ["render_tasks"]


def render_tasks(board: Board, *, most: int, told: dict[str, set[str]]) -> list[str]:
    """One section a task: the primary metric on each test split; all but the first folded away.

    Args:
        board: Of the whole suite.
        most: How many of its encoders have a row.
        told: By task the encoders that have a row in another table; a task of which everybody
            has one is left out, and those who get a row are added.
    """
    results = board.results
    order = board.table.index[:most]
    parts = []
    for task, own in results[results["encoder"].isin(order)].groupby("task", sort=False):
        there, known = set(own.loc[own["have"] > 0, "encoder"]), told.setdefault(str(task), set())
        if known and there <= known:
            continue
        known |= there
        parts.append(f"### {escape(task)}\n")
        if title := board.tasks.get(str(task)):
            parts.append(f"{escape(title)}.\n")
        if not own["have"].any():
            parts.append("No results yet.\n")
            continue
        inside, *outside = [
            f"{escape(part['metric'].iloc[0])}, "
            f"{escape('in-domain' if split == IN_DOMAIN else split)}\n\n"
            f"{_split(part, order)}"
            for split, part in own.groupby("split", sort=False)
        ]
        parts.append(inside)
        if outside:
            parts += ["<details><summary>Out-of-domain</summary>\n", *outside, "</details>\n"]
    return parts


def _split(results: pd.DataFrame, order: pd.Index[str]) -> str:
    """One row per encoder and one column per adaptation and budget; empty ones are left out."""
    columns = list(dict.fromkeys(zip(results["adaptation"], results["budget"], strict=True)))
    entries = {
        (row.encoder, row.adaptation, row.budget): _result(row)
        for row in results[results["have"] > 0].itertuples()
    }
    filled = {key[1:] for key in entries}
    columns = [column for column in columns if column in filled]
    present = {encoder for encoder, *_ in entries}
    rows = [
        [escape(encoder), *(entries.get((encoder, *column), MISSING) for column in columns)]
        for encoder in order
        if encoder in present
    ]
    head = ["Encoder", *(f"{adaptation} {budget}" for adaptation, budget in columns)]
    return pipe_table(head, rows)


def _result(row: Any) -> str:
    if row.have < row.draws:
        return f"{row.have}/{row.draws} draws"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.3f}"
    return f"{row.mean:.3f}{spread}{' (diverged)' if row.diverged else ''}"
