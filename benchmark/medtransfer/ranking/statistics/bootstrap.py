"""Bootstrap replicates of scores, over test items and few-shot draws.

Replicate r of every encoder is scored on the same resampled items and draws, so the replicates of
a difference are the differences of the replicates (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 8). What is resampled is decided by the names of task, split and budget
alone: neither another encoder nor the order of the submissions changes a replicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.ranking.records.grid import GROUP, find_groups, mean
from medtransfer.ranking.records.parallel import map_in_processes
from medtransfer.ranking.statistics.uncertainty import interval
from medtransfer.specs.replicates import FILE, read_rows
from medtransfer.specs.split_name import IN_DOMAIN

REPLICATES = 1000
_MUCH = 20_000  # records; fewer are drawn faster than a second process starts

Scores = NDArray[np.float32]
Rows = Mapping[str, NDArray[np.float32]]


Block = tuple[int, ...]
"""Rows of groups: those of one task that count on a board."""


@dataclass(frozen=True)
class Replicates:
    """Replicates of the scores of groups of cells; a group is a task, budget and adaptation.

    Attributes:
        groups: One row a group, G of them: task, budget, adaptation.
        bounds: For each encoder the 95 % interval of its in-domain scores, (2, G); NaN for groups
            of which it lacks a cell.
        means: For each encoder and block the mean in-domain score over the block's groups, (R,).
        inside: For each encoder the in-domain scores, (G, R); only if single groups were wanted.
        outside: The same out-of-domain, the mean over the task's other splits, graded corruptions
            being one.
    """

    groups: pd.DataFrame
    bounds: Mapping[str, NDArray[np.float64]]
    means: Mapping[str, Mapping[Block, NDArray[np.float64]]]
    inside: Mapping[str, Scores]
    outside: Mapping[str, Scores]

    def find(self, groups: pd.DataFrame) -> NDArray[np.intp]:
        """Rows of these groups, each of which is among its own."""
        return find_groups(self.groups, groups)


def split_blocks(rows: NDArray[np.intp], tasks: pd.Series[str]) -> list[Block]:
    """The rows of each task, tasks in the order in which they come first.

    Args:
        rows: Of groups.
        tasks: Theirs.
    """
    codes, names = pd.factorize(tasks)
    return [tuple(rows[codes == code].tolist()) for code in range(len(names))]


def resample(
    cells: Mapping[str, pd.DataFrame],
    groups: pd.DataFrame,
    *,
    blocks: Sequence[Block] = (),
    single: bool = False,
    replicates: int = REPLICATES,
    processes: int = 1,
) -> Replicates:
    """Draw replicates of what the encoders have, where all draws of a group are there.

    Items: each of a task's test splits takes one of its stored replicates at random, the same for
    all cells and encoders. Draws: of D draws of a budget D - 1 are taken with replacement, so that
    the variance of their mean is estimated without bias (Rao and Wu, "Resampling Inference with
    Complex Survey Data", JASA 1988); a single draw stays.

    Args:
        cells: The records of each encoder, as in `Submission`, at most one of a cell.
        groups: As in `Grid`.
        blocks: Of which means are wanted; these of hundreds of encoders are megabytes, single
            groups a gigabyte.
        single: Whether single groups are wanted, too, in-domain and out-of-domain.
        replicates: Number R of replicates.
        processes: How many do it, where there is much to do.

    Raises:
        InputError: For arrays that a record names and that are not there.
    """
    work = partial(_draw, groups=groups, blocks=blocks, single=single, replicates=replicates)
    if sum(map(len, cells.values())) < _MUCH:
        processes = 1
    results = map_in_processes(work, list(cells.values()), processes=processes)
    drawn = dict(zip(cells, results, strict=True))
    return Replicates(
        groups=groups[GROUP],
        bounds={name: part.bounds for name, part in drawn.items()},
        means={name: dict(zip(blocks, part.means, strict=True)) for name, part in drawn.items()},
        inside={name: part.inside for name, part in drawn.items() if part.inside is not None},
        outside={name: part.outside for name, part in drawn.items() if part.outside is not None},
    )


def weigh(groups: pd.DataFrame, domains: Mapping[str, str]) -> NDArray[np.float64]:
    """Weight of each group in the mean over groups, then tasks, then domains: (G,).

    Args:
        groups: Of `Replicates`, or some of its rows.
        domains: Of each task.
    """
    tasks = groups["task"]
    domain = tasks.map(dict(domains))
    per_task = tasks.map(tasks.value_counts())
    per_domain = domain.map(tasks.groupby(domain).nunique())
    return np.asarray(1 / (per_task * per_domain * domain.nunique()), dtype=np.float64)


class _Drawn(NamedTuple):
    """Replicates of one encoder; see `Replicates`."""

    bounds: NDArray[np.float64]
    means: list[NDArray[np.float64]]
    inside: Scores | None
    outside: Scores | None


def _draw(
    cells: pd.DataFrame,
    *,
    groups: pd.DataFrame,
    blocks: Sequence[Block],
    single: bool,
    replicates: int,
) -> _Drawn:
    """Draw the replicates of one encoder."""
    archives = {
        # Ignore the file name in the record: a submission must not refer to files elsewhere.
        folder: read_rows(Path(folder) / FILE, suffix="" if single else f"/{IN_DOMAIN}")
        for folder in cells["folder"].dropna().unique()
        if (Path(folder) / FILE).is_file()  # the installed submissions come without arrays
    }
    inside = np.full((len(groups), replicates), np.nan, np.float32)
    outside = np.full_like(inside, np.nan) if single else None
    names = [str(name).removeprefix("has_") for name in groups if str(name).startswith("has_")]
    has = {name: groups[f"has_{name}"].to_numpy(bool) for name in names}
    draws = list(zip(groups["budget"], groups["draws"], strict=True))
    for task, cells_of_task in _by_task(cells, groups, archives):
        rows = cells_of_task.group[cells_of_task.number == 0]
        weights = [
            _weigh_draws(task, draws[row][0], draws=draws[row][1], replicates=replicates)
            for row in rows
        ]
        scores = {}
        for name in names if single else [IN_DOMAIN]:
            if has[name][rows[0]]:
                stored = _read(cells_of_task, name, archives)
                items = _choose_items(task, name, stored.shape[1], replicates=replicates)
                scores[name] = _average(
                    np.take(stored, items, axis=1), cells_of_task.number, weights
                )
        inside[rows] = scores.pop(IN_DOMAIN)
        if outside is not None and scores:
            outside[rows] = sum(scores.values()) / np.float32(len(scores))
    return _Drawn(
        bounds=interval(inside),
        means=[mean(inside[list(block)], np.zeros(len(block), np.intp))[0] for block in blocks],
        inside=inside if single else None,
        outside=outside,
    )


class _Cells(NamedTuple):
    """Some cells of one task, by group and draw: row of the group, number of the draw in it."""

    group: NDArray[np.int64]
    number: NDArray[np.int64]
    measured: NDArray[np.bool_]
    chance: NDArray[np.float32]
    folder: NDArray[np.object_]
    key: NDArray[np.object_]

    def take(self, rows: slice) -> _Cells:
        """Some of them."""
        return _Cells(**{name: values[rows] for name, values in self._asdict().items()})


def _by_task(
    cells: pd.DataFrame, groups: pd.DataFrame, archives: Mapping[str, Rows]
) -> Iterator[tuple[str, _Cells]]:
    """The cells of the groups of which every draw has replicates, task by task."""
    group = find_groups(groups, cells)
    diverged = (cells["status"] == "diverged").to_numpy()
    measured = (cells["status"] == "ok") & cells["key"].notna() & cells["folder"].isin(archives)
    usable = (group >= 0) & (diverged | measured.to_numpy())
    counts = np.bincount(group[usable], minlength=len(groups))
    usable[usable] = (counts == groups["draws"].to_numpy())[group[usable]]
    of_task, tasks = pd.factorize(groups["task"])
    order = np.lexsort((cells["draw"].to_numpy(), group, of_task[group]))
    order = order[usable[order]]
    group, starts = group[order], np.flatnonzero(np.diff(group[order], prepend=-1))
    chosen = _Cells(
        group=group,
        number=np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group))),
        measured=~diverged[order],
        chance=cells["chance"].to_numpy(np.float32)[order],
        folder=cells["folder"].to_numpy(object)[order],
        key=cells["key"].to_numpy(object)[order],
    )
    for task in np.unique(of_task[group]):
        rows = slice(*np.searchsorted(of_task[group], [task, task + 1]))
        yield str(tasks[task]), chosen.take(rows)


def _average(values: Scores, number: NDArray[np.int64], weights: Sequence[Scores]) -> Scores:
    """Weighted mean over the draws of each group.

    One draw after the other, in single precision: the same bits on every processor, which a
    library's sum of products does not promise.

    Args:
        values: (cells, R), by group.
        number: Of the draw in its group, (cells,).
        weights: Of each group's draws, (D, R) each.
    """
    group = np.cumsum(number == 0) - 1
    means = np.zeros((len(weights), values.shape[1]), np.float32)
    for draw in range(number.max() + 1):
        here = number == draw
        means[group[here]] += values[here] * np.stack([weights[g][draw] for g in group[here]])
    return means


@cache
def _choose_items(task: str, split: str, stored: int, *, replicates: int) -> NDArray[np.intp]:
    """Sample stored replicates of a split, (R,)."""
    return _random("items", task, split).integers(stored, size=replicates)


@cache
def _weigh_draws(task: str, budget: str, *, draws: int, replicates: int) -> Scores:
    """Weight of each draw, (D, R); the adaptations of a budget share its few shots."""
    if draws == 1:
        return np.ones((1, replicates), np.float32)
    generator = _random("draws", task, budget, str(draws))
    taken = generator.integers(draws, size=(replicates, draws - 1))
    counts = (taken == np.arange(draws)[:, None, None]).sum(axis=2)
    return np.asarray(counts / (draws - 1), np.float32)


def _random(*names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _read(cells: _Cells, split: str, archives: Mapping[str, Rows]) -> Scores:
    """The stored replicates of one split as scores, (cells, B); of cells that diverged zeros.

    Which is chance, whatever the items. A replicate in which the metric is undefined says nothing:
    it is the mean of the others.
    """
    rows = []
    for folder, key in zip(cells.folder[cells.measured], cells.key[cells.measured], strict=True):
        try:
            rows.append(archives[folder][f"{key}/{split}"])
        except KeyError:
            raise InputError(
                f"{Path(folder) / FILE}: no replicates of {key}, {split}, which a record names"
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise InputError(
                f"{Path(folder) / FILE}: {len(rows[-1])} replicates of {key}, {split}, but "
                f"{len(rows[0])} of other cells of the task"
            )
    stored = np.zeros((len(cells.group), len(rows[0]) if rows else 1), np.float32)
    if rows:
        values, chance = np.stack(rows), cells.chance[cells.measured, None]
        unknown = np.isnan(values)
        if unknown.any():
            count = np.maximum((~unknown).sum(axis=1, keepdims=True), 1)
            mean = np.where(unknown, 0, values).sum(axis=1, keepdims=True) / count
            mean = np.where(unknown.all(axis=1, keepdims=True), chance, mean)
            values = np.where(unknown, mean, values)
        stored[cells.measured] = (values - chance) / (1 - chance)
    return stored
