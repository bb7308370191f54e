"""Results of encoders on the cells of a board, as arrays, with their means and totals.

A missing value is NaN and stays so through every mean: no mean is taken over the values that
happen to be there. No value depends on the other encoders, to the last bit: sums go through the
cells in their order, for each encoder by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from medtransfer.specs.split_name import IN_DOMAIN

Floats = NDArray[np.float64]
Where = Callable[[pd.DataFrame], "pd.Series[bool]"]

GROUP = ["task", "budget", "adaptation"]


@dataclass(frozen=True)
class Split:
    """The primary metric on one test split, or on all graded corruptions of one; (G, E) each.

    Attributes:
        mean: Over the draws; NaN unless all are there.
        std: Standard deviation over the draws; NaN for a single one.
        have: How many draws are there.
    """

    mean: Floats
    std: Floats
    have: NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Numbers of E encoders on G groups of cells; a group is a task, budget and adaptation.

    Attributes:
        groups: One row a group: task, budget, adaptation, domain, and more.
        encoders: Their names.
        columns: (G, E) by name: a number of each group, over its draws; NaN where one is missing.
        relations: Transfer relation of each encoder to each domain, (domains, E).
    """

    groups: pd.DataFrame
    encoders: list[str]
    columns: Mapping[str, Floats]
    relations: pd.DataFrame


@dataclass(frozen=True)
class Grid(Scores):
    """Results of encoders on groups of cells, one cell a draw.

    Attributes:
        groups: Also draws (how many cells it has), kind (classification or segmentation), metric
            and chance (of it), and whether the task has them: has_<test split>, out_of_domain (any
            other than in_domain), external and corrupted.
        columns: The scores in_domain and, over a task's other test splits, their mean
            out_of_domain and its parts external and corrupted; value, the primary metric; the
            costs, sums over the draws, of sizes the largest known; and pretraining_flops, as
            declared.
        splits: By name, those of all tasks.
        diverged: How many draws diverged, which counts as chance, (G, E).
        failures: Cells that failed, in their order: encoder, group (its row) and error.
        devices: What the cells ran on: encoder, group and device.
    """

    splits: Mapping[str, Split]
    diverged: NDArray[np.int64]
    failures: pd.DataFrame
    devices: pd.DataFrame

    def find(self, encoders: Sequence[str]) -> NDArray[np.intp]:
        """The columns of some encoders."""
        place = {name: column for column, name in enumerate(self.encoders)}
        return np.array([place[name] for name in encoders], np.intp)

    def choose(self, groups: NDArray[np.intp], encoders: Sequence[str] | None = None) -> Grid:
        """Only some groups and encoders, in the order in which they are given."""
        names = self.encoders if encoders is None else list(encoders)
        chosen = np.ix_(groups, self.find(names))
        place = np.full(len(self.groups), -1)
        place[groups] = np.arange(len(groups))

        def keep(rows: pd.DataFrame) -> pd.DataFrame:
            moved = rows.assign(group=place[rows["group"]])
            kept = moved[(moved["group"] >= 0) & moved["encoder"].isin(names)]
            return kept.sort_values("group", kind="stable", ignore_index=True)

        return Grid(
            groups=self.groups.iloc[groups].reset_index(drop=True),
            encoders=names,
            splits={
                name: Split(split.mean[chosen], split.std[chosen], split.have[chosen])
                for name, split in self.splits.items()
                if name == IN_DOMAIN or self.groups[f"has_{name}"].iloc[groups].any()
            },
            columns={name: values[chosen] for name, values in self.columns.items()},
            diverged=self.diverged[chosen],
            relations=self.relations.loc[self.groups["domain"].iloc[groups].unique(), names],
            failures=keep(self.failures),
            devices=keep(self.devices),
        )


def find_groups(groups: pd.DataFrame, wanted: pd.DataFrame) -> NDArray[np.intp]:
    """Rows of ``groups`` by task, budget and adaptation of ``wanted``; -1 for none."""
    index = pd.MultiIndex.from_frame(groups[GROUP])
    return index.get_indexer(pd.MultiIndex.from_frame(wanted[GROUP]))


def average(
    scores: Scores,
    column: str,
    *,
    by: Literal["task", "encoder"] = "encoder",
    where: Where = lambda groups: groups["task"].notna(),
    relation: str | None = None,
) -> Any:
    """Mean over draws, then over budgets and adaptations, then over tasks, then over domains.

    Args:
        scores: What to average over.
        column: One of its columns.
        by: Where to stop; ``encoder`` is the overall mean.
        where: From its groups to those that count.
        relation: Only the domains with this transfer relation to the encoder.

    Returns:
        By task a table, one column an encoder; else one value an encoder.
    """
    chosen = where(scores.groups).to_numpy(bool)
    groups = scores.groups[chosen]
    of_task, tasks = pd.factorize(groups["task"])
    values = mean(scores.columns[column][chosen], of_task)
    if by == "task":
        return pd.DataFrame(values, index=pd.Index(tasks, name="task"), columns=scores.encoders)
    domain = dict(zip(groups["task"], groups["domain"], strict=True))
    of_domain, domains = pd.factorize(np.array([domain[task] for task in tasks], dtype=object))
    values = mean(values, of_domain)
    kept = np.ones(values.shape, bool)
    if relation is not None:
        kept = scores.relations.loc[list(domains)].to_numpy() == relation
    sums = fold(np.add, np.where(kept, values, 0), np.zeros(len(values), np.intp))
    with np.errstate(invalid="ignore"):
        overall = sums.sum(axis=0) / kept.sum(axis=0)  # of one row, or of none
    return pd.Series(overall, index=scores.encoders)


def total(grid: Scores, column: str) -> pd.Series[float]:
    """Sum over the groups, by encoder; null when any is unknown."""
    return _reduce(np.add, grid, column)


def largest(grid: Scores, column: str) -> pd.Series[float]:
    """Return the largest known value of each encoder."""
    return _reduce(np.fmax, grid, column)


def peak(grid: Scores, column: str) -> pd.Series[float]:
    """Return the largest value of each encoder; null if any is unknown."""
    return _reduce(np.maximum, grid, column)


def _reduce(how: np.ufunc, grid: Scores, column: str) -> pd.Series[float]:
    folded = fold(how, grid.columns[column], np.zeros(len(grid.groups), np.intp))
    values = folded[0] if len(folded) else np.nan
    return pd.Series(values, index=grid.encoders, dtype=float)


def mean(values: NDArray[Any], codes: NDArray[np.intp]) -> Floats:
    """Mean of the rows of each code, from 0 on."""
    sums = fold(np.add, values, codes, dtype=np.float64)
    return np.asarray(sums / np.bincount(codes)[:, None])


def fold(
    how: np.ufunc, values: NDArray[Any], codes: NDArray[np.intp], dtype: DTypeLike | None = None
) -> NDArray[Any]:
    """Combine the rows of each code, first to last; not by a sum, whose order numpy chooses."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    number = np.empty(len(codes), np.intp)
    number[order] = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    first = number == 0
    sums = np.empty((first.sum(), *values.shape[1:]), dtype or values.dtype)
    sums[codes[first]] = values[first]
    for turn in range(1, number.max(initial=0) + 1):
        rows = number == turn
        sums[codes[rows]] = how(sums[codes[rows]], values[rows])
    return sums
