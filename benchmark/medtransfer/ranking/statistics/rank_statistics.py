"""Uncertainty of a board's ranks: intervals, tie groups, mean ranks and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.records.grid import Grid, average
from medtransfer.ranking.statistics.bootstrap import Replicates, split_blocks, weigh
from medtransfer.ranking.statistics.uncertainty import (
    Significance,
    compare_over_tasks,
    interval,
    rank_intervals,
    task_replicates,
    tie_groups,
)
from medtransfer.specs.split_name import IN_DOMAIN

RANK_STATISTICS = [
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
class RankStatistics:
    """Rank statistics of a board.

    Attributes:
        table: Index encoder; columns of :data:`RANK_STATISTICS`: the 95 % interval of the headline
            score and of the rank, the number of the tie group, the interval of the rank with
            resampled tasks, the mean rank over tasks, and the share of the other encoders and
            tasks that are beaten (ties count half).
        significance: Tests over tasks.
    """

    table: pd.DataFrame
    significance: Significance


def compute_rank_statistics(
    grid: Grid,
    encoders: Sequence[str],
    replicates: Replicates,
    lineages: Mapping[str, Sequence[str]],
) -> RankStatistics:
    """Compare the ranked encoders of a board.

    Args:
        grid: What they did on the cells that decide the rank; others may be in it.
        encoders: Those with every cell.
        replicates: Of these cells; others may be in it.
        lineages: Source corpora of each task.
    """
    table = pd.DataFrame(
        index=pd.Index(encoders, name="encoder"), columns=RANK_STATISTICS, dtype=float
    )
    chosen = grid.choose(np.arange(len(grid.groups)), encoders)
    tasks = average(chosen, IN_DOMAIN, by="task")
    significance = compare_over_tasks(tasks)
    if not len(encoders):
        return RankStatistics(table, significance)
    table["mean_rank"] = tasks.rank(axis=1, ascending=False).mean()
    table["win_rate"] = _win_rates(tasks)
    drawn = _by_task(chosen, replicates)
    domains = dict(zip(chosen.groups["task"], chosen.groups["domain"], strict=True))
    weights = weigh(pd.DataFrame({"task": tasks.index}), domains)
    overall = np.stack([weights @ values for values in drawn])
    complete = np.isfinite(overall).all(axis=1)
    scores = average(chosen, IN_DOMAIN).to_numpy()
    table[[f"{IN_DOMAIN}_low", f"{IN_DOMAIN}_high"]] = interval(overall).T
    table["tie"] = tie_groups(scores, overall)
    for suffix, values in (
        ("", overall),
        ("_tasks", task_replicates(drawn, list(tasks.index), domains, lineages)),
    ):
        if values is not None:
            low, high = rank_intervals(values)
            table["rank_low" + suffix] = np.where(complete, low, np.nan)
            table["rank_high" + suffix] = np.where(complete, high, np.nan)
    table.loc[~complete, "tie"] = np.nan
    whole = [name for name in RANK_STATISTICS if name.startswith(("rank", "tie"))]
    return RankStatistics(table.astype(dict.fromkeys(whole, "Int64")), significance)


def _by_task(grid: Grid, replicates: Replicates) -> NDArray[np.float64]:
    """Replicates of the score on each task, (E, tasks, R): the mean over its groups."""
    blocks = split_blocks(replicates.find(grid.groups), grid.groups["task"])
    return np.stack(
        [np.stack([replicates.means[name][block] for block in blocks]) for name in grid.encoders]
    )


def _win_rates(tasks: pd.DataFrame) -> pd.Series[float]:
    """Mean over tasks of the share of the other encoders that score less."""
    others = tasks.shape[1] - 1
    below = tasks.rank(axis=1, method="average") - 1  # ties count half
    return below.mean() / others if others else pd.Series(np.nan, index=tasks.columns)


_NAMED = 10  # pairs of encoders in a sentence


def verdicts(significance: Significance, table: pd.DataFrame) -> list[str]:
    """Summarise the evidence in sentences: on these tasks, and on other tasks like these.

    Args:
        significance: Tests of the ranked encoders over tasks.
        table: Of `compute_rank_statistics`, among others of encoders without a rank.
    """
    lines, ties = [], table["tie"].max()
    if pd.notna(ties) and table["tie"].count() > 1:
        groups = (
            f"{ties} groups of encoders differ" if ties > 1 else "no encoder differs from the best"
        )
        lines.append(f"On these tasks, given their test items and draws, {groups} (Tie).")
    others, tasks = "On other tasks like these", significance.tasks
    if significance.friedman is None:
        if len(significance.pairs):
            lines.append(
                f"{others}: not tested; {tasks} task{'s are' if tasks > 1 else ' is'} too few."
            )
        return lines
    verdict = (
        "encoders differ" if significance.friedman < 0.05 else "encoders are not shown to differ"
    )
    shown = significance.pairs[significance.pairs["holm"] < 0.05]
    pairs = [f"{pair.better} over {pair.worse}" for pair in shown.itertuples()]
    rest = f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    count = len(significance.pairs)
    if significance.pairs["p"].isna().any():
        single = f"{tasks} are too few for any of {count} pairs to be significant"
    else:
        single = (
            f"significant of {count} pairs (signed-rank tests, Holm's correction): "
            f"{', '.join(pairs[:_NAMED]) + rest or 'none'}"
        )
    lines.append(
        f"{others}: over {tasks} tasks the {verdict} (Friedman test, "
        f"p = {significance.friedman:.2g}); {single}."
    )
    return lines
