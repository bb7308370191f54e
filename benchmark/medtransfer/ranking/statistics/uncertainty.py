"""Intervals and tests of differences and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def interval(replicates: Floats) -> NDArray[np.float64]:
    """95 % interval of replicates (..., R): (2, ...), low and high; NaN where one is NaN.

    As `numpy.percentile`, by a sort, which takes a quarter of the time here.
    """
    ordered = np.sort(replicates, axis=-1)  # NaN last
    bounds = []
    for share in (0.025, 0.975):
        below, rest = divmod(share * (ordered.shape[-1] - 1), 1)
        low, high = (
            ordered[..., int(below)],
            ordered[..., min(int(below) + 1, ordered.shape[-1] - 1)],
        )
        bounds.append(low + (high - low) * rest)
    return np.where(np.isnan(ordered[..., -1]), np.nan, np.stack(bounds))


def rank_intervals(replicates: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """95 % intervals of the ranks of E encoders.

    An encoder's rank is at least one more than the number of encoders that are shown to be better,
    and at most the number of those that are not shown to be worse, each in a paired comparison of
    its own at 5 % (one-sided). The percentiles of bootstrapped ranks, which look more natural,
    cover the true rank far too seldom where encoders are close: resampling adds the noise once
    more, and the noise pushes the ranks of the best and the worst to the middle (Mogstad, Romano,
    Shaikh and Wilhelm, "Inference for Ranks with Applications to Mobility across Neighbourhoods",
    Review of Economic Studies 2024, whose intervals these are but for the correction for many
    comparisons, which would make them cover too much).

    Args:
        replicates: Of the scores, (E, R), paired.

    Returns:
        Lowest and highest rank, (E,) each; 1 is best.
    """
    count = len(replicates)
    better = np.zeros((count, count), bool)  # [i, j]: i is shown to be better than j
    for row, scores in enumerate(replicates):
        above = np.count_nonzero(scores > replicates, axis=1)
        better[row] = above >= 0.95 * replicates.shape[1]
    return 1 + better.sum(axis=0), count - better.sum(axis=1)


def tie_groups(scores: Floats, replicates: Floats) -> NDArray[np.int64]:
    """Number the tie groups: encoders that are not shown to differ.

    The best encoder leads the first group; to it belongs every encoder whose paired difference to
    the leader has an interval that contains 0, at the level of `rank_intervals`: the two never
    contradict each other. The best of the others leads the next group.

    Args:
        scores: (E,).
        replicates: Of the scores, (E, R), paired.

    Returns:
        The number of each encoder's group, (E,), from 1.
    """
    groups = np.zeros(len(scores), np.int64)
    order = np.argsort(-scores, kind="stable")
    for number in range(1, len(scores) + 1):
        left = order[groups[order] == 0]
        if not len(left):
            break
        above = np.count_nonzero(replicates[left[0]] > replicates[left], axis=1)
        # Without replicates no encoder is shown to be better.
        groups[left[above < 0.95 * replicates.shape[1]]] = number
    return groups


def clusters(lineages: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Number tasks so that those that share a source corpus, directly or not, share a number.

    OrganAMNIST, OrganCMNIST and OrganSMNIST are views of the same volumes: one piece of evidence.

    Args:
        lineages: The corpora of each task; a task without any is alone.
    """
    number: dict[str, int] = {}
    owner: dict[str, int] = {}
    for index, (task, corpora) in enumerate(sorted(lineages.items())):
        joined = {owner[corpus] for corpus in corpora if corpus in owner}
        number[task] = index
        for names in (number, owner):
            names.update({name: index for name, old in names.items() if old in joined})
        owner.update(dict.fromkeys(corpora, index))
    return number


def task_replicates(
    replicates: Floats,
    tasks: Sequence[str],
    domains: Mapping[str, str],
    lineages: Mapping[str, Sequence[str]],
) -> NDArray[np.float64] | None:
    """Replicates of the overall score in which the tasks are resampled too, by source corpus.

    Args:
        replicates: Of the score on each task, (E, T, R).
        tasks: Their names.
        domains: Of each task; one of which no task is drawn is left out of that replicate's mean.
        lineages: The source corpora of each task.

    Returns:
        (E, R), or ``None`` with fewer than two independent tasks.
    """
    number = clusters({task: lineages.get(task, ()) for task in tasks})
    cluster = np.unique([number[task] for task in tasks], return_inverse=True)[1]
    count = cluster.max() + 1 if len(tasks) else 0
    if count < 2:
        return None
    rounds = replicates.shape[-1]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=rounds)
    times = drawn[:, cluster].T.astype(np.float64)  # (T, R)
    names = np.array([domains[task] for task in tasks])
    member = (names == np.unique(names)[:, None]).astype(np.float64)  # (domains, T)
    size = member @ times
    present = (size > 0).sum(axis=0)
    share = times * (member.T @ (1 / np.maximum(size, 1))) / present  # of each task's score, (T, R)
    return np.stack([(cluster * share).sum(axis=0) for cluster in replicates])


@dataclass(frozen=True)
class Significance:
    """Tests of differences between encoders over tasks; they use no test items.

    Attributes:
        tasks: How many tasks there were.
        friedman: p-value that no encoder is better than another; ``None`` with fewer than three
            encoders or two tasks, 1 where all are equal.
        pairs: One row a pair: better, worse, p (of the signed-rank test) and holm (corrected for
            all pairs by Holm's method), sorted by p; both null where so few tasks could not show
            one of so many pairs, however clear it was.
    """

    tasks: int
    friedman: float | None
    pairs: pd.DataFrame


def compare_over_tasks(scores: pd.DataFrame) -> Significance:
    """Compare encoders by their scores on tasks (Demsar, JMLR 2006).

    Args:
        scores: One row a task, one column an encoder.
    """
    from scipy import stats  # late: the table after an evaluation tests nothing

    tasks, encoders = scores.shape
    values = scores.to_numpy()
    friedman = None
    if encoders > 2 and tasks > 1:
        alike = bool((values == values[:, :1]).all())
        friedman = 1.0 if alike else float(stats.friedmanchisquare(*values.T).pvalue)
    first, second = np.triu_indices(encoders, 1)
    difference = values[:, first] - values[:, second]
    p = np.ones(len(first))
    some = (difference != 0).any(axis=0)
    # The exact test of so few tasks has no smaller p-value than this.
    hopeless = len(first) * 2.0 ** (1 - tasks) >= 0.05
    if hopeless:
        p[some] = np.nan
    elif some.any():
        p[some] = stats.wilcoxon(difference[:, some], axis=0, zero_method="zsplit").pvalue
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    holm = np.empty_like(p)
    holm[order] = np.minimum(steps, 1)
    up = difference.sum(axis=0) >= 0
    names = scores.columns.to_numpy()
    pairs = pd.DataFrame(
        {
            "better": names[np.where(up, first, second)],
            "worse": names[np.where(up, second, first)],
            "p": p,
            "holm": holm,
        }
    )
    return Significance(tasks, friedman, pairs.iloc[order].reset_index(drop=True))
