"""Long table -> one row a cell -> scores. Table in, table out.

A missing value stays missing through every mean: no mean is taken over what happens to be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pandas as pd

from medtransfer.ranking.frame import COSTS, IN_DOMAIN, KINDS, most_common
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite, split_family

__all__ = [
    "LEVELS",
    "applicable",
    "average",
    "broad_kind",
    "cell_scores",
    "expected_cells",
    "expected_fingerprints",
    "grid",
    "totals",
]

# The levels of the mean, outermost first.
LEVELS = ["encoder", "domain", "task", "budget", "adaptation", "draw"]


def broad_kind(kind: str) -> str:
    """Classification or segmentation."""
    return kind if kind in KINDS else KINDS[0]


def expected_cells(
    suite: Suite, kinds: Mapping[str, str], protocol: Protocol, *, optional: bool = False
) -> list[Cell]:
    """The cells that an encoder needs to be ranked, in the order of the protocol.

    Args:
        suite: The tasks.
        kinds: Kind of each task; one that nobody ran may be missing, nobody is complete then.
        protocol: The protocol.
        optional: The cells of the optional adaptations instead.
    """
    return [
        Cell(task, budget, adaptation, draw)
        for task, kind in ((task, kinds.get(task, "multiclass")) for task in suite.tasks)
        for adaptation in (protocol.optional(kind) if optional else protocol.adaptations(kind))
        for budget, draws in protocol.budgets(adaptation, kind).items()
        if suite.budgets is None or budget in suite.budgets
        for draw in range(draws)
    ]


def expected_fingerprints(rows: pd.DataFrame, protocol: Protocol | None) -> list[str]:
    """For each row of :func:`frame` the fingerprint that the protocol has now; or an empty one."""
    known = protocol.fingerprints if protocol else {}
    pairs = zip(rows["kind"], rows["adaptation"], strict=True)
    return [known.get(pair, "") for pair in pairs]


def applicable(cells: Iterable[Cell], rows: pd.DataFrame) -> list[Cell]:
    """The cells that no record calls not applicable.

    That is decided from the task card alone, so one encoder's record holds for all.
    """
    skipped = rows.loc[rows["status"] == "not_applicable", list(Cell._fields)]
    skip = set(skipped.itertuples(index=False, name=None))
    return [cell for cell in cells if cell not in skip]


def grid(rows: pd.DataFrame, cells: Sequence[Cell], encoders: Iterable[str]) -> pd.DataFrame:
    """Lay ``rows`` out: one row per encoder, expected cell and test split, null where missing.

    Args:
        rows: Rows of :func:`frame`, of one protocol and one fingerprint a task.
        cells: The expected cells; their order is kept.
        encoders: Names; their order is kept.
    """
    names = list(Cell._fields)
    wanted = pd.DataFrame(cells, columns=names).astype({"draw": int})
    splits = rows[["task", "split"]].drop_duplicates()
    splits = splits.sort_values("split", key=lambda split: split != IN_DOMAIN, kind="stable")
    layout = pd.DataFrame({"encoder": list(encoders)}, dtype=str).merge(wanted, how="cross")
    layout = layout.merge(splits, on="task", how="left").fillna({"split": IN_DOMAIN})
    # No encoder can be complete while nobody has a record of the task, so this name ranks nobody.
    layout["domain"] = layout["task"].map(most_common(rows, "domain")).fillna("unknown")
    layout["metric"] = layout["task"].map(most_common(rows, "metric"))
    layout["kind"] = layout["task"].map(most_common(rows, "kind")).map(broad_kind)
    values = rows.drop(columns=["domain", "metric", "kind"])
    return layout.merge(values, on=["encoder", *names, "split"], how="left")


def cell_scores(grid: pd.DataFrame) -> pd.DataFrame:
    """One row per encoder and expected cell: its scores and what it cost.

    Returns:
        Index :data:`LEVELS`; columns kind, in_domain and out_of_domain (scores), external and
        corrupted (the two parts of out_of_domain; null for tasks without such splits), value (of
        the primary metric, in-domain), elsewhere (whether the task has out-of-domain splits at
        all), the costs and device.
    """
    inside = grid["split"] == IN_DOMAIN
    cells = grid[inside].set_index(LEVELS)[["kind", "score", "value", *COSTS, "device"]]
    cells = cells.rename(columns={"score": IN_DOMAIN})
    outside = grid[~inside]
    # Graded corruptions of a split count as one split, however many there are.
    named = outside.assign(split=outside["split"].map(split_family))
    scores = named.set_index([*LEVELS, "split"])["score"]
    splits = _mean(scores, [*LEVELS, "split"])
    graded = splits.index.get_level_values("split").str.startswith("corrupted")
    cells["out_of_domain"] = _mean(splits, LEVELS)
    cells["external"] = _mean(splits[~graded], LEVELS)
    cells["corrupted"] = _mean(splits[graded], LEVELS)
    cells["elsewhere"] = cells.index.isin(outside["task"].unique(), level="task")
    return cells


def average(
    cells: pd.DataFrame, column: str, *, by: Literal["task", "domain", "encoder"] = "encoder"
) -> pd.Series[float]:
    """Mean over draws, then over budgets and adaptations, then over tasks, then over domains.

    Args:
        cells: Table of :func:`cell_scores`.
        column: What to average.
        by: Where to stop; ``encoder`` is the overall mean.
    """
    values = cells[column]
    for depth in (5, 3, 2, 1):
        if depth > LEVELS.index(by):
            values = _mean(values, LEVELS[:depth])
    return values


def totals(cells: pd.DataFrame, column: str) -> pd.Series[float]:
    """Sum over the expected cells, by encoder; null when any is unknown."""
    groups = cells[column].groupby(level="encoder")
    return groups.sum().where(groups.count() == groups.size())


def _mean(values: pd.Series[float], levels: list[str]) -> pd.Series[float]:
    """Mean by index levels; null when any of the values is."""
    groups = values.groupby(level=levels)
    # Filled, because one null anywhere changes the last bit of pandas' means of all other groups.
    means = values.fillna(0).groupby(level=levels).mean()
    return means.where(groups.count() == groups.size())
