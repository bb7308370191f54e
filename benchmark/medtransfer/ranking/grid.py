"""What encoders did on the cells of a board, as arrays, and the means and totals of it.

A missing value is NaN and stays so through every mean: no mean is taken over what happens to be
there. Nobody's value depends on who else is there, to the last bit: sums go through the cells in
their order, for each encoder by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from medtransfer.ranking.frame import IN_DOMAIN, KINDS, Frame, most_common
from medtransfer.ranking.submissions import COSTS
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import Cell
from medtransfer.specs.task import split_family

__all__ = [
    "GROUP",
    "Grid",
    "Scores",
    "Split",
    "Where",
    "average",
    "broad_kind",
    "fill_grid",
    "largest",
    "mean",
    "peak",
    "total",
]

Floats = NDArray[np.float64]
Where = Callable[[pd.DataFrame], "pd.Series[bool]"]

GROUP = ["task", "budget", "adaptation"]
_CORRUPTED = "corrupted"
# The largest known, or the largest if all are known; the other costs add up.
_HOW = {
    "inference_flops_per_image": np.fmax,
    "parameters": np.fmax,
    "trainable_parameters": np.fmax,
    "peak_memory_bytes": np.maximum,
}


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
    """What encoders did on groups of cells, of which each is a draw.

    Attributes:
        groups: Also draws (how many cells it has), kind (classification or segmentation), metric
            and chance (of it), and whether the task has them: has_<test split>, out_of_domain (any
            other than in_domain), external and corrupted.
        columns: The scores in_domain and, over a task's other test splits, their mean
            out_of_domain and its parts external and corrupted; value, the primary metric; the
            costs, of which only a draw's largest may be missing; and pretraining_flops, as
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


def broad_kind(kind: str) -> str:
    """Classification or segmentation."""
    return kind if kind in KINDS else KINDS[0]


def fill_grid(frame: Frame, cells: Sequence[Cell], cards: Mapping[str, EncoderCard]) -> Grid:
    """Lay records out.

    The test splits of a task are those that any ``ok`` record has. A ``diverged`` cell has the
    value of chance on each of them; a ``failed`` or ``not_applicable`` one has none.

    Args:
        frame: Records of one protocol and one fingerprint a task, at most one of a cell.
        cells: What is laid out, by group; their order is kept.
        cards: Of the encoders; their order is kept.
    """
    table = pd.DataFrame(cells, columns=list(Cell._fields))
    of_group, keys = pd.factorize(pd.MultiIndex.from_frame(table[GROUP]))
    groups = _describe(pd.DataFrame(list(keys), columns=GROUP), frame.cells)
    groups["draws"] = np.bincount(of_group, minlength=len(groups))
    encoders = list(cards)
    shape = (len(cells), len(encoders))
    records = frame.cells.assign(
        row=_find(frame.cells, table),
        column=pd.Index(encoders, dtype=object).get_indexer(pd.Index(frame.cells["encoder"])),
    )
    records = records[(records["row"] >= 0) & (records["column"] >= 0)]
    rows, columns = records["row"].to_numpy(), records["column"].to_numpy()

    def lay(name: str) -> Floats:
        laid_out = np.full(shape, np.nan)
        laid_out[rows, columns] = records[name].to_numpy(float)
        return laid_out

    diverged = np.zeros(shape, bool)
    diverged[rows, columns] = records["status"] == "diverged"
    chance = groups["chance"].to_numpy(float)[of_group, None]
    splits = {}
    for name, known, values in _families(frame, records, table["task"].to_numpy(), shape):
        values[known] = np.where(diverged, chance, values)[known]
        splits[name] = _over_draws(values, of_group, groups["draws"].to_numpy())
        groups[f"has_{name}"] = _fold(np.logical_or, known[:, None], of_group)[:, 0]
    ordered = records.assign(group=of_group[rows]).sort_values("row", kind="stable")
    failures = ordered[ordered["status"] == "failed"]
    flops = {
        name: 0.0 if card.pretraining.objective == "none" else card.pretraining.cost.flops
        for name, card in cards.items()
    }
    declared = np.array([flops[name] for name in encoders], dtype=float)
    return Grid(
        groups=groups,
        encoders=encoders,
        splits=splits,
        columns={
            **_score(groups, splits),
            **{name: _fold(_HOW.get(name, np.add), lay(name), of_group) for name in COSTS},
            "pretraining_flops": np.repeat(declared[None], len(groups), axis=0),
        },
        diverged=_fold(np.add, diverged.astype(np.int64), of_group),
        relations=pd.DataFrame(
            {
                name: [card.relation(domain) for domain in groups["domain"].unique()]
                for name, card in cards.items()
            },
            index=groups["domain"].unique(),
            columns=encoders,
        ),
        failures=failures[["encoder", "group", "error"]].reset_index(drop=True),
        devices=ordered[["encoder", "group", "device"]].dropna().drop_duplicates(),
    )


def average(
    scores: Scores,
    column: str,
    *,
    by: Literal["task", "domain", "encoder"] = "encoder",
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
        By task or domain a table, one column an encoder; else one value an encoder.
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
    if by == "domain":
        return pd.DataFrame(values, index=pd.Index(domains, name="domain"), columns=scores.encoders)
    kept = np.ones(values.shape, bool)
    if relation is not None:
        kept = scores.relations.loc[list(domains)].to_numpy() == relation
    sums = _fold(np.add, np.where(kept, values, 0), np.zeros(len(values), np.intp))
    with np.errstate(invalid="ignore"):
        overall = sums.sum(axis=0) / kept.sum(axis=0)  # of one row, or of none
    return pd.Series(overall, index=scores.encoders)


def total(grid: Scores, column: str) -> pd.Series[float]:
    """Sum over the groups, by encoder; null when any is unknown."""
    return _reduce(np.add, grid, column)


def largest(grid: Scores, column: str) -> pd.Series[float]:
    """The largest that is known, by encoder."""
    return _reduce(np.fmax, grid, column)


def peak(grid: Scores, column: str) -> pd.Series[float]:
    """The largest, by encoder; null when any is unknown, which might be the largest."""
    return _reduce(np.maximum, grid, column)


def _reduce(how: np.ufunc, grid: Scores, column: str) -> pd.Series[float]:
    folded = _fold(how, grid.columns[column], np.zeros(len(grid.groups), np.intp))
    values = folded[0] if len(folded) else np.nan
    return pd.Series(values, index=grid.encoders, dtype=float)


def _describe(groups: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add what the records say of each group's task."""
    tasks = groups["task"]
    return groups.assign(
        # No encoder can be complete while nobody has a record of the task: this name ranks nobody.
        domain=tasks.map(most_common(cells, "domain")).fillna("unknown"),
        kind=tasks.map(most_common(cells, "kind")).map(broad_kind, na_action="ignore"),
        metric=tasks.map(most_common(cells, "metric")),
        chance=tasks.map(cells.groupby("task", observed=True)["chance"].max()).astype(float),
    )


def _find(records: pd.DataFrame, cells: pd.DataFrame) -> NDArray[np.intp]:
    """Which of some different cells each record is of; -1 for none of them."""
    key = pd.Series(0, index=records.index)
    wanted = pd.Series(0, index=cells.index)
    known = pd.Series(True, index=records.index)
    for name in Cell._fields:
        names = pd.Index(cells[name].unique())
        code = names.get_indexer(pd.Index(records[name]))
        known &= code >= 0
        key = key * len(names) + code
        wanted = wanted * len(names) + names.get_indexer(pd.Index(cells[name]))
    return pd.Index(wanted).get_indexer(pd.Index(key.where(known, -1)))


def _families(
    frame: Frame, records: pd.DataFrame, tasks: NDArray[np.object_], shape: tuple[int, int]
) -> Iterator[tuple[str, NDArray[np.bool_], Floats]]:
    """For each test split, graded corruptions being one: its name, which cells have it, values.

    Args:
        frame: All records, which decide what test splits a task has.
        records: Those that are laid out, with row and column.
        tasks: Of each cell.
        shape: Cells and encoders.
    """
    place = np.full((2, len(frame.cells)), -1)
    place[:, records.index] = records[["row", "column"]].to_numpy().T
    cell = frame.values["cell"].to_numpy()
    values = frame.values.assign(
        row=place[0, cell], column=place[1, cell], task=frame.cells["task"].array[cell]
    )
    parts = {str(name): part for name, part in values.groupby("split", observed=True)}
    families: dict[str, list[str]] = {IN_DOMAIN: [IN_DOMAIN]}
    for name in sorted(set(parts) - {IN_DOMAIN}):
        families.setdefault(split_family(name), []).append(name)
    for family, names in families.items():
        sums, count = np.zeros(shape), np.zeros(shape[0])
        for name in names:
            part = parts.get(name, values.iloc[:0])
            own = np.full(shape, np.nan)
            part_tasks = part["task"].unique()
            part = part[part["row"] >= 0]
            own[part["row"], part["column"]] = part["value"]
            known = np.isin(tasks, part_tasks) | (name == IN_DOMAIN)
            sums[known] += own[known]
            count += known
        with np.errstate(invalid="ignore"):
            yield family, count > 0, sums / count[:, None]


def _over_draws(values: Floats, of_group: NDArray[np.intp], draws: NDArray[np.int64]) -> Split:
    center = _fold(np.add, values, of_group) / draws[:, None]
    squares = _fold(np.add, (values - center[of_group]) ** 2, of_group)
    with np.errstate(invalid="ignore"):
        std = np.sqrt(squares / (draws[:, None] - 1))
    have = _fold(np.add, (~np.isnan(values)).astype(np.int64), of_group)
    return Split(center, std, have)


def _score(groups: pd.DataFrame, splits: Mapping[str, Split]) -> dict[str, Floats]:
    """Scores, (m - chance) / (1 - chance), in-domain and over the other test splits."""
    chance = groups["chance"].to_numpy(float)[:, None]
    scores = {name: (split.mean - chance) / (1 - chance) for name, split in splits.items()}
    parts = {
        "out_of_domain": [name for name in scores if name != IN_DOMAIN],
        "external": [name for name in scores if name not in (IN_DOMAIN, _CORRUPTED)],
        "corrupted": [name for name in scores if name == _CORRUPTED],
    }
    found = {IN_DOMAIN: scores[IN_DOMAIN], "value": splits[IN_DOMAIN].mean}
    for part, names in parts.items():
        sums, count = np.zeros(scores[IN_DOMAIN].shape), np.zeros((len(groups), 1))
        for name in names:
            known = groups[f"has_{name}"].to_numpy(bool)
            sums[known] += scores[name][known]
            count[known] += 1
        with np.errstate(invalid="ignore"):
            found[part] = sums / count
        groups[part] = count[:, 0] > 0
    return found


def mean(values: NDArray[Any], codes: NDArray[np.intp]) -> Floats:
    """Mean of the rows of each code, from 0 on."""
    sums = _fold(np.add, values, codes, dtype=np.float64)
    return np.asarray(sums / np.bincount(codes)[:, None])


def _fold(
    how: np.ufunc, values: NDArray[Any], codes: NDArray[np.intp], dtype: DTypeLike | None = None
) -> NDArray[Any]:
    """Combine the rows of each code, first to last; not by a sum, whose order numpy chooses."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    number = np.empty(len(codes), np.intp)
    number[order] = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    first = number == 0
    found = np.empty((first.sum(), *values.shape[1:]), dtype or values.dtype)
    found[codes[first]] = values[first]
    for turn in range(1, number.max(initial=0) + 1):
        rows = number == turn
        found[codes[rows]] = how(found[codes[rows]], values[rows])
    return found
