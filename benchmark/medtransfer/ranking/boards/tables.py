"""Tables of a board: scores of encoders, and results task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.boards.columns import Column
from medtransfer.ranking.records.grid import GROUP, Floats, Grid
from medtransfer.specs.split_name import IN_DOMAIN

_RESULTS = ["encoder", "domain", "task", "metric", "chance", "split", "adaptation", "budget"]
_RESULTS += ["draws", "have", "diverged", "mean", "std", "low", "high"]


def tabulate_scores(
    grid: Grid, columns: Sequence[Column], titles: Mapping[str, str]
) -> pd.DataFrame:
    """One row per encoder: have, expected, coverage, title, ``columns`` and relation_<domain>."""
    table = pd.DataFrame(index=pd.Index(grid.encoders, name="encoder"))
    table["have"] = grid.splits[IN_DOMAIN].have.sum(axis=0)
    table["expected"] = int(grid.groups["draws"].sum())
    table["coverage"] = table["have"] / table["expected"]
    table["title"] = [titles[name] for name in grid.encoders]
    for column in columns:
        table[column.name] = column.how(grid)
    for domain in sorted(grid.relations.index):
        table[f"relation_{domain}"] = grid.relations.loc[domain]
    return table


def rank_scores(scores: pd.Series[float]) -> pd.Series[int]:
    """Ranks from 1, the highest score; equal scores share the better rank, null has none."""
    return scores.rank(ascending=False, method="min").astype("Int64")


def sort_by_rank(table: pd.DataFrame) -> pd.DataFrame:
    """Ranked encoders first, then the others by coverage, then by name."""
    order = table.reset_index().sort_values(
        ["rank", "coverage", "encoder"], ascending=[True, False, True]
    )
    return order.set_index("encoder")


def tabulate_results(grid: Grid, bounds: Floats) -> pd.DataFrame:
    """One row per task, test split (in-domain first), group and encoder; see `Board.results`.

    Args:
        grid: Results of the encoders.
        bounds: 95 % interval of each in-domain score, (2, G, E); NaN where unknown.
    """
    groups, names = grid.groups, grid.encoders
    if not names or groups.empty:
        return pd.DataFrame(columns=_RESULTS)
    chance = groups["chance"].to_numpy(float)[:, None]
    low, high = bounds * (1 - chance) + chance  # from the scale of scores back to the metric's
    unknown = np.full(low.shape, np.nan)
    about = {name: groups[name].to_numpy() for name in (*GROUP, "domain", "metric", "draws")}
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _RESULTS}
    of_task, tasks = pd.factorize(groups["task"])
    for task in range(len(tasks)):
        rows = np.flatnonzero(of_task == task)
        for name, split in grid.splits.items():
            if name != IN_DOMAIN and not groups.at[rows[0], f"has_{name}"]:
                continue
            inside = name == IN_DOMAIN
            values = {
                "mean": split.mean,
                "std": split.std,
                "have": split.have,
                "diverged": grid.diverged,
                "low": low if inside else unknown,
                "high": high if inside else unknown,
            }
            columns = {
                **{key: np.repeat(value[rows], len(names)) for key, value in about.items()},
                "chance": np.repeat(chance[rows, 0], len(names)),
                "encoder": np.tile(np.array(names, dtype=object), len(rows)),
                "split": np.full(len(rows) * len(names), name, dtype=object),
                **{key: value[rows].ravel() for key, value in values.items()},
            }
            for key, value in columns.items():
                parts[key].append(value)
    return pd.DataFrame({name: np.concatenate(arrays) for name, arrays in parts.items()})
