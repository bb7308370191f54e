"""Fill a grid with records: one value an encoder, cell and test split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.records.frame import KINDS, Frame, most_common
from medtransfer.ranking.records.grid import GROUP, Floats, Grid, Split, fold
from medtransfer.ranking.records.submissions import COSTS
from medtransfer.specs.encoder import EncoderCard, PretrainingCard
from medtransfer.specs.record import Cell
from medtransfer.specs.split_name import IN_DOMAIN, SplitName

_CORRUPTED = "corrupted"
# The largest known, or the largest if all are known; the other costs add up.
_HOW = {
    "inference_flops_per_image": np.fmax,
    "parameters": np.fmax,
    "trainable_parameters": np.fmax,
    "peak_memory_bytes": np.maximum,
}


def broad_kind(kind: str) -> str:
    """Classification or segmentation."""
    return kind if kind in KINDS else KINDS[0]


def fill_grid(frame: Frame, cells: Sequence[Cell], cards: Mapping[str, EncoderCard]) -> Grid:
    """Arrange records as a grid.

    The test splits of a task are those that any ``ok`` record has. A ``diverged`` cell has the
    value of chance on each of them; a ``failed`` or ``not_applicable`` one has none.

    Args:
        frame: Records of one protocol and one fingerprint a task, at most one of a cell.
        cells: What is laid out, by group; their order is kept.
        cards: Of the encoders; their order is kept.
    """
    keys = {key: number for number, key in enumerate(dict.fromkeys(map(_group_of, cells)))}
    of_group = np.array([keys[_group_of(cell)] for cell in cells], np.intp)
    groups = _describe(pd.DataFrame(list(keys), columns=GROUP), frame.cells)
    groups["draws"] = np.bincount(of_group, minlength=len(groups))
    encoders = list(cards)
    shape = (len(cells), len(encoders))
    records = frame.cells.assign(
        row=find_cells(frame.cells, cells),
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
    for name, present, values in _families(
        frame, records, np.array([cell.task for cell in cells], dtype=object), shape
    ):
        values[present] = np.where(diverged, chance, values)[present]
        splits[name] = _over_draws(values, of_group, groups["draws"].to_numpy())
        groups[f"has_{name}"] = fold(np.logical_or, present[:, None], of_group)[:, 0]
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
            **{name: fold(_HOW.get(name, np.add), lay(name), of_group) for name in COSTS},
            "pretraining_flops": np.repeat(declared[None], len(groups), axis=0),
        },
        diverged=fold(np.add, diverged.astype(np.int64), of_group),
        relations=relate({name: card.pretraining for name, card in cards.items()}, groups),
        failures=failures[["encoder", "group", "error"]].reset_index(drop=True),
        devices=ordered[["encoder", "group", "device"]].dropna().drop_duplicates(),
    )


def relate(cards: Mapping[str, PretrainingCard], groups: pd.DataFrame) -> pd.DataFrame:
    """Transfer relation of each encoder to the domains of some groups, (domains, E)."""
    domains = groups["domain"].unique()
    relations = {
        name: [card.relation(domain) for domain in domains] for name, card in cards.items()
    }
    return pd.DataFrame(relations, index=domains, columns=list(cards))


def _group_of(cell: Cell) -> tuple[str, str, str]:
    return cell.task, cell.budget, cell.adaptation


def _describe(groups: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add what the records say of each group's task."""
    tasks = groups["task"]
    return groups.assign(
        # Without a record of the task no encoder is complete, so nobody is ranked.
        domain=tasks.map(most_common(cells, "domain")).fillna("unknown"),
        kind=tasks.map(most_common(cells, "kind")).map(broad_kind, na_action="ignore"),
        metric=tasks.map(most_common(cells, "metric")),
        chance=tasks.map(cells.groupby("task", observed=True)["chance"].max()).astype(float),
    )


def find_cells(records: pd.DataFrame, cells: Sequence[Cell]) -> NDArray[np.intp]:
    """Position of each record's cell among different cells; -1 for none of them."""
    table = pd.DataFrame(cells, columns=list(Cell._fields))
    key = pd.Series(0, index=records.index)
    wanted = pd.Series(0, index=table.index)
    complete = pd.Series(True, index=records.index)
    for name in Cell._fields:
        names = pd.Index(table[name].unique())
        code = names.get_indexer(pd.Index(records[name]))
        complete &= code >= 0
        key = key * len(names) + code
        wanted = wanted * len(names) + names.get_indexer(pd.Index(table[name]))
    return pd.Index(wanted).get_indexer(pd.Index(key.where(complete, -1)))


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
    for name in sorted(set(parts) - {IN_DOMAIN}):  # a record refuses parts of in_domain
        families.setdefault(SplitName.parse(name).family, []).append(name)
    for family, names in families.items():
        sums, count = np.zeros(shape), np.zeros(shape[0])
        for name in names:
            part = parts.get(name, values.iloc[:0])
            full = np.full(shape, np.nan)
            part_tasks = part["task"].unique()
            part = part[part["row"] >= 0]
            full[part["row"], part["column"]] = part["value"]
            present = np.isin(tasks, part_tasks) | (name == IN_DOMAIN)
            sums[present] += full[present]
            count += present
        with np.errstate(invalid="ignore"):
            yield family, count > 0, sums / count[:, None]


def _over_draws(values: Floats, of_group: NDArray[np.intp], draws: NDArray[np.int64]) -> Split:
    center = fold(np.add, values, of_group) / draws[:, None]
    squares = fold(np.add, (values - center[of_group]) ** 2, of_group)
    with np.errstate(invalid="ignore"):
        std = np.sqrt(squares / (draws[:, None] - 1))
    have = fold(np.add, (~np.isnan(values)).astype(np.int64), of_group)
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
    columns = {IN_DOMAIN: scores[IN_DOMAIN], "value": splits[IN_DOMAIN].mean}
    for part, names in parts.items():
        sums, count = np.zeros(scores[IN_DOMAIN].shape), np.zeros((len(groups), 1))
        for name in names:
            present = groups[f"has_{name}"].to_numpy(bool)
            sums[present] += scores[name][present]
            count[present] += 1
        with np.errstate(invalid="ignore"):
            columns[part] = sums / count
        groups[part] = count[:, 0] > 0
    return columns
