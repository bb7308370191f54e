"""The primary metric itself, task by task: the results behind the scores of a board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from medtransfer.core.text import MISSING, escape, pipe_table
from medtransfer.ranking.boards.board import Board
from medtransfer.specs.split_name import IN_DOMAIN


def render_tasks(board: Board, *, most: int, told: dict[str, set[str]]) -> list[str]:
    """Write a section per task: the metric on each test split, all but the first folded.

    Args:
        board: Of the whole suite.
        most: How many of its encoders have a row.
        told: By task the encoders that have a row in another table; a task of which everybody
            has one is left out, and those who get a row are added.
    """
    results = board.results
    order = board.table.index[:most]
    parts = []
    for task, rows in results[results["encoder"].isin(order)].groupby("task", sort=False):
        complete, explained = (
            set(rows.loc[rows["have"] > 0, "encoder"]),
            told.setdefault(str(task), set()),
        )
        if explained and complete <= explained:
            continue
        explained |= complete
        parts.append(f"## {escape(task)}\n")
        if title := board.tasks.get(str(task)):
            parts.append(f"{escape(title)}.\n")
        tables = {
            f"{part['metric'].iloc[0]}, {'in-domain' if split == IN_DOMAIN else str(split)}": part
            for split, part in rows.groupby("split", sort=False)
        }
        parts += render_results(tables, order, folded="Out-of-domain")
    return parts


def render_results(
    tables: Mapping[str, pd.DataFrame], order: pd.Index[str], *, folded: str
) -> list[str]:
    """Results of one task: the first table, and the others folded away.

    Args:
        tables: Rows of `Board.results`, by the words above the table.
        order: Of the encoders.
        folded: Summary of what is folded.
    """
    parts = [
        f"{escape(label)}\n\n{_render(*tabulate_task(part, order))}"
        for label, part in tables.items()
        if part["have"].any()
    ]
    if len(parts) < 2:
        return parts or ["No results yet.\n"]
    return [parts[0], f"<details><summary>{folded}</summary>\n", *parts[1:], "</details>\n"]


def _render(head: list[str], rows: list[list[str]]) -> str:
    return pipe_table(head, [list(map(escape, row)) for row in rows])


def tabulate_task(results: pd.DataFrame, order: pd.Index[str]) -> tuple[list[str], list[list[str]]]:
    """One row per encoder and one column per adaptation and budget; empty ones are left out."""
    entries = {
        (row.encoder, row.adaptation, row.budget): _result(row)
        for row in results[results["have"] > 0].itertuples()
    }
    filled, present = {key[1:] for key in entries}, {key[0] for key in entries}
    columns = dict.fromkeys(zip(results["adaptation"], results["budget"], strict=True))
    shown = [column for column in columns if column in filled]
    rows = [
        [encoder, *(entries.get((encoder, *column), MISSING) for column in shown)]
        for encoder in order
        if encoder in present
    ]
    return ["Encoder", *(" ".join(map(str, column)) for column in shown)], rows


def _result(row: Any) -> str:
    """Mean and standard deviation; ``marked`` is a column of published studies alone."""
    if row.have < row.draws:
        return f"{row.have}/{row.draws} draws"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.3f}"
    diverged = " (diverged)" if row.diverged else ""
    return f"{row.mean:.3f}{spread}{diverged}{' †' if getattr(row, 'marked', 0) else ''}"
