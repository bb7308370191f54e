"""Where the ranked encoders of a board stand, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medtransfer.ranking.frame import IN_DOMAIN
from medtransfer.ranking.resampling import Replicates, weigh
from medtransfer.ranking.table import average
from medtransfer.ranking.uncertainty import (
    Significance,
    compare_over_tasks,
    interval,
    rank_intervals,
    task_replicates,
    tie_groups,
)

__all__ = ["STANDING", "Standing", "judge"]

STANDING = [
    f"{IN_DOMAIN}_low",
    f"{IN_DOMAIN}_high",
    "rank_low",
    "rank_high",
    "tie",
    "rank_low_tasks",
    "rank_high_tasks",
    "mean_rank",
    "win_rate",
]


@dataclass(frozen=True)
class Standing:
    """What `judge` finds.

    Attributes:
        table: Index encoder; columns of :data:`STANDING`: the 95 % interval of the headline score
            and of the rank, the number of the tie group, the interval of the rank if the tasks
            were others, the mean rank over tasks, and the share of the other encoders and tasks
            that are beaten (ties count half).
        significance: Tests over tasks.
    """

    table: pd.DataFrame
    significance: Significance


def judge(
    cells: pd.DataFrame,
    encoders: Sequence[str],
    replicates: Replicates,
    lineages: Mapping[str, Sequence[str]],
) -> Standing:
    """Compare the ranked encoders of a board.

    Args:
        cells: Table of `cell_scores`.
        encoders: Those with every cell.
        replicates: Of the same cells.
        lineages: Source corpora of each task.
    """
    table = pd.DataFrame(index=pd.Index(encoders, name="encoder"), columns=STANDING, dtype=float)
    own = cells[cells.index.isin(encoders, level="encoder")]
    tasks = average(own, IN_DOMAIN, by="task").droplevel("domain").unstack("encoder")
    tasks = tasks[list(encoders)]
    significance = compare_over_tasks(tasks)
    if not len(encoders):
        return Standing(table, significance)
    table["mean_rank"] = tasks.rank(axis=1, ascending=False).mean()
    table["win_rate"] = _win_rates(tasks)
    places = own.index.to_frame()[["task", "domain"]].drop_duplicates()
    domains = dict(places.itertuples(index=False, name=None))
    inside = {encoder: replicates.inside(encoder) for encoder in encoders}
    weights = weigh(replicates.groups, domains)
    overall = np.stack([weights @ values for values in inside.values()])
    known = np.isfinite(overall).all(axis=1)
    scores = average(own, IN_DOMAIN)[list(encoders)].to_numpy()
    table[[f"{IN_DOMAIN}_low", f"{IN_DOMAIN}_high"]] = interval(overall).T
    table["tie"] = tie_groups(scores, overall)
    for suffix, drawn in (
        ("", overall),
        ("_tasks", task_replicates(replicates, inside, domains, lineages)),
    ):
        if drawn is not None:
            low, high = rank_intervals(drawn)
            table["rank_low" + suffix] = np.where(known, low, np.nan)
            table["rank_high" + suffix] = np.where(known, high, np.nan)
    table.loc[~known, "tie"] = np.nan
    whole = [name for name in STANDING if name.startswith(("rank", "tie"))]
    return Standing(table.astype(dict.fromkeys(whole, "Int64")), significance)


def _win_rates(tasks: pd.DataFrame) -> pd.Series[float]:
    """Mean over tasks of the share of the other encoders that score less."""
    others = tasks.shape[1] - 1
    below = tasks.rank(axis=1, method="average") - 1  # ties count half
    return below.mean() / others if others else pd.Series(np.nan, index=tasks.columns)
