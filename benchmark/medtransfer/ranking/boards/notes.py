"""Notes below a board: what was left out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from medtransfer.ranking.boards.layout import OTHER_TASKS, Layout
from medtransfer.ranking.records.frame import IN_DOMAIN
from medtransfer.ranking.records.grid import GROUP, Grid
from medtransfer.ranking.statistics.bootstrap import Replicates
from medtransfer.specs.record import Cell

__all__ = ["notes"]


def notes(layout: Layout, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The notes of a board.

    Args:
        layout: Records of the board.
        seen: For each task that ranked encoders saw in pre-training, their names.
    """
    return (
        *_stale(layout.stale),
        *_foreign(layout.foreign),
        *_inapplicable(layout.planned, layout.cells),
        *_seen(seen, layout.cells),
        *_doubtful(layout.whole, layout.replicates),
        *([_OTHER_TASKS_NOTE] if layout.suite == OTHER_TASKS else []),
    )


_OTHER_TASKS_NOTE = (
    "These tasks are in no suite: as soon as one encoder has a further task, encoders without it "
    "lose their rank."
)


def _count(rows: pd.DataFrame) -> str:
    records = len(rows)
    encoders = ", ".join(sorted(rows["encoder"].unique()))
    return f"{records} record{'s' if records > 1 else ''} of {encoders}"


def _stale(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    return [f"Made under another version of the protocol, so not ranked: {_count(rows)}."]


def _foreign(rows: pd.DataFrame) -> list[str]:
    return [
        f"{task}: made with other data or another revision of the task than most, so counted as "
        f"missing: {_count(part)}."
        for task, part in rows.groupby("task", observed=True)
    ]


def _seen(seen: Mapping[str, Sequence[str]], cells: Sequence[Cell]) -> list[str]:
    """Tasks that the clean rank leaves out."""
    if not seen:
        return []
    tasks = {cell.task for cell in cells}
    rest = "" if tasks - set(seen) else ", which leaves none"
    listed = "; ".join(f"{task} ({', '.join(who)})" for task, who in sorted(seen.items()))
    return [
        "Seen in pre-training (as declared), so left out of the clean rank of all encoders"
        f"{rest}: {listed}."
    ]


def _doubtful(grid: Grid, replicates: Replicates) -> list[str]:
    """Results that cannot be what their replicates were drawn from; see `bench verify`."""
    inside, rows = grid.splits[IN_DOMAIN].mean, replicates.find(grid.groups)
    chance = grid.groups["chance"].to_numpy(float)
    notes = []
    for column, encoder in enumerate(grid.encoders):
        low, high = replicates.bounds[encoder][:, rows] * (1 - chance) + chance
        beyond = high - low + 1e-3  # as far again as the interval is wide
        far = (inside[:, column] < low - beyond) | (inside[:, column] > high + beyond)
        if far.any():
            first = " ".join(grid.groups.loc[np.flatnonzero(far)[0], GROUP])
            notes.append(
                f"{encoder}: {far.sum()} result{'s' if far.sum() > 1 else ''} far outside the "
                f"submitted bootstrap replicates, the first {first}; see `bench verify`."
            )
    return notes


def _inapplicable(planned: Iterable[Cell], cells: Iterable[Cell]) -> list[str]:
    kept = set(cells)
    dropped = dict.fromkeys(
        (cell.task, cell.budget, cell.adaptation) for cell in planned if cell not in kept
    )
    budgets: dict[tuple[str, str], list[str]] = {}
    for task, budget, adaptation in dropped:
        budgets.setdefault((task, budget), []).append(adaptation)
    return [
        f"{task}: {budget} is not applicable, for any encoder ({', '.join(adaptations)})."
        for (task, budget), adaptations in budgets.items()
    ]
