"""Where the ranked encoders of a board stand, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.records.frame import IN_DOMAIN
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

__all__ = ["STANDING", "Standing", "judge", "verdicts"]

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
    grid: Grid,
    encoders: Sequence[str],
    replicates: Replicates,
    lineages: Mapping[str, Sequence[str]],
) -> Standing:
    """Compare the ranked encoders of a board.

    Args:
        grid: What they did on the cells that decide the rank; others may be in it.
        encoders: Those with every cell.
        replicates: Of these cells; others may be in it.
        lineages: Source corpora of each task.
    """
    table = pd.DataFrame(index=pd.Index(encoders, name="encoder"), columns=STANDING, dtype=float)
    own = grid.choose(np.arange(len(grid.groups)), encoders)
    tasks = average(own, IN_DOMAIN, by="task")
    significance = compare_over_tasks(tasks)
    if not len(encoders):
        return Standing(table, significance)
    table["mean_rank"] = tasks.rank(axis=1, ascending=False).mean()
    table["win_rate"] = _win_rates(tasks)
    drawn = _by_task(own, replicates)
    domains = dict(zip(own.groups["task"], own.groups["domain"], strict=True))
    weights = weigh(pd.DataFrame({"task": tasks.index}), domains)
    overall = np.stack([weights @ values for values in drawn])
    known = np.isfinite(overall).all(axis=1)
    scores = average(own, IN_DOMAIN).to_numpy()
    table[[f"{IN_DOMAIN}_low", f"{IN_DOMAIN}_high"]] = interval(overall).T
    table["tie"] = tie_groups(scores, overall)
    for suffix, values in (
        ("", overall),
        ("_tasks", task_replicates(drawn, list(tasks.index), domains, lineages)),
    ):
        if values is not None:
            low, high = rank_intervals(values)
            table["rank_low" + suffix] = np.where(known, low, np.nan)
            table["rank_high" + suffix] = np.where(known, high, np.nan)
    table.loc[~known, "tie"] = np.nan
    whole = [name for name in STANDING if name.startswith(("rank", "tie"))]
    return Standing(table.astype(dict.fromkeys(whole, "Int64")), significance)


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


def verdicts(found: Significance, table: pd.DataFrame) -> list[str]:
    """Two questions that are easily taken for one, each with its answer in a sentence.

    Args:
        found: Tests of the ranked encoders over tasks.
        table: Of `judge`, among others of encoders without a rank.
    """
    lines, ties = [], table["tie"].max()
    if pd.notna(ties) and table["tie"].count() > 1:
        groups = f"{ties} groups of encoders apart" if ties > 1 else "no encoder from the best"
        lines.append(f"On these very tasks, test items and draws tell {groups} (Tie).")
    question, tasks = "Would it be so on other tasks like these?", found.tasks
    if found.friedman is None:
        if len(found.pairs):
            lines.append(
                f"{question} Nothing is tested: {tasks} task{'s' if tasks > 1 else ''} cannot say."
            )
        return lines
    verdict = "not all alike" if found.friedman < 0.05 else "not shown to differ"
    shown = found.pairs[found.pairs["holm"] < 0.05]
    pairs = [f"{pair.better} over {pair.worse}" for pair in shown.itertuples()]
    rest = f" and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    if found.pairs["p"].isna().any():
        single = f"{tasks} are too few to show one of {len(found.pairs)} pairs to differ"
    else:
        single = (
            f"of their {len(found.pairs)} pairs, signed-rank tests with Holm's correction show "
            f"{', '.join(pairs[:_NAMED]) + rest or 'none to differ'}"
        )
    lines.append(
        f"{question} As far as {tasks} tasks can say, the encoders are {verdict} (Friedman's "
        f"test, p = {found.friedman:.2g}); {single}."
    )
    return lines
