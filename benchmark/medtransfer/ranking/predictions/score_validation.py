"""Validation of transferability scores: scores joined with outcomes, table in, table out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LEAST = 3
"""Fewest encoders for a rank correlation."""

FEW = 6
"""Fewest encoders for a verdict: with three, one order in six is perfect by chance."""

RANDOM = "random pick"
"""The baseline beside the scores: an encoder picked at random."""

_REPLICATES = 1000
_Key = tuple[str, str, str]  # outcome, score, task


@dataclass(frozen=True)
class ScoreValidation:
    """Scores against outcomes.

    Attributes:
        tasks: One row a task, outcome and score: encoders (how many have both), weighted_tau,
            spearman, pearson, regret, top3, pick (the encoder with the highest score), best (that
            with the best outcome), and relative_cost, where it is known.
        summary: One row an outcome and score: tasks (how many have a weighted tau; of a random pick
            a regret), encoders (the fewest and most of a task: encoders, most), the mean over tasks
            of each of :data:`STATISTICS`, where it is defined, its 95 % interval, <name>_low and
            <name>_high, from a bootstrap of encoders and tasks, and relative_cost.
    """

    tasks: pd.DataFrame
    summary: pd.DataFrame

    @classmethod
    def nothing(cls) -> ScoreValidation:
        """Return an empty validation."""
        return cls(pd.DataFrame(columns=_TASKS), pd.DataFrame(columns=_SUMMARY))


def weighted_tau(first: Floats, second: Floats, counts: Counts) -> Floats:
    """Kendall's tau in which disagreements among the best count most, of drawn items.

    Vigna, A weighted correlation index for rankings with ties, WWW 2015: additive hyperbolic
    weights 1 / (1 + r), r an item's place among the highest; the mean over the ranks by (first,
    second) and by (second, first). As `scipy.stats.weightedtau` of the items repeated.

    Args:
        first: Of n items.
        second: Of the same.
        counts: How often each of R draws has each item, (R, n).

    Returns:
        (R,); NaN where all drawn items tie in one of the two.
    """
    signs = [np.sign(values[:, None] - values) for values in (first, second)]
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, counts.sum(axis=1).max() + 1))])
    taus = []
    for major, minor in ((first, second), (second, first)):
        order = np.lexsort((minor, major))[::-1]
        ends = counts[:, order].cumsum(axis=1)
        weight = np.empty(counts.shape)  # of all copies of an item together
        weight[:, order] = harmonic[ends] - harmonic[ends - counts[:, order]]

        # A pair of copies weighs what they do together, so two items counts_j w_i + counts_i w_j.
        def total(signed: Floats, weight: Floats = weight) -> Floats:
            return np.asarray((weight * (counts @ signed)).sum(axis=1))

        norm = np.sqrt(total(signs[0] ** 2) * total(signs[1] ** 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            taus.append(total(signs[0] * signs[1]) / norm)
    return np.asarray(np.clip(np.mean(taus, axis=0), -1, 1))


def _pearson(first: Floats, second: Floats, counts: Counts) -> Floats:
    return _correlate(np.broadcast_to(first, counts.shape), second, counts)


def _correlate(first: Floats, second: Floats, counts: Counts) -> Floats:
    """Pearson's correlation of values that draws may hold several times, (R, n) or (n,)."""
    total = counts.sum(axis=1, keepdims=True)
    centred = [
        np.where(counts > 0, values - (counts * values).sum(axis=1, keepdims=True) / total, 0)
        for values in (first, second)
    ]
    squares = [(counts * values**2).sum(axis=1) for values in centred]
    scale = [np.square(np.where(counts > 0, values, 0)).max(axis=1) for values in (first, second)]
    flat = (squares[0] <= 1e-24 * scale[0]) | (squares[1] <= 1e-24 * scale[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (counts * centred[0] * centred[1]).sum(axis=1) / np.sqrt(
            squares[0] * squares[1]
        )
    return np.where(flat, np.nan, correlation)


def _spearman(first: Floats, second: Floats, counts: Counts) -> Floats:
    ranks = [
        counts @ (values[:, None] < values) + (counts @ (values[:, None] == values) + 1) / 2
        for values in (first, second)
    ]
    return _correlate(ranks[0], ranks[1], counts)


def _regret(score: Floats, outcome: Floats, counts: Counts) -> Floats:
    """Best outcome minus that of the top-scored; of several at the top their mean."""
    drawn = counts > 0
    highest = np.where(drawn, score, -np.inf).max(axis=1, keepdims=True)
    top = counts * (score == highest)
    picked = (top * outcome).sum(axis=1) / top.sum(axis=1)
    best = np.where(drawn, outcome, -np.inf).max(axis=1)
    return np.asarray(np.maximum(best - picked, 0))


def _top3(score: Floats, outcome: Floats, counts: Counts) -> Floats:
    """1 where the best is among the three with the highest scores; ties count against it."""
    drawn = counts > 0
    best = np.where(drawn, outcome, -np.inf).argmax(axis=1)
    above = drawn & (score >= score[best][:, None])
    return np.asarray((above.sum(axis=1) <= LEAST).astype(float))


STATISTICS: dict[str, Callable[[Floats, Floats, Counts], Floats]] = {
    "weighted_tau": weighted_tau,
    "spearman": _spearman,
    "pearson": _pearson,
    "regret": _regret,
    "top3": _top3,
}
"""Statistics of a score: from scores and outcomes (n,) and counts (R, n) to values (R,)."""

_TASKS = ["task", "outcome", "score", "encoders", *STATISTICS, "pick", "best", "relative_cost"]
_SUMMARY = ["outcome", "score", "tasks", "encoders", "most"]
_SUMMARY += [f"{name}{end}" for name in STATISTICS for end in ("", "_low", "_high")]
_SUMMARY += ["relative_cost"]


def validate_scores(
    scores: pd.DataFrame, outcomes: pd.DataFrame, *, replicates: int = _REPLICATES
) -> ScoreValidation:
    """Compare scores with outcomes.

    A baseline is beside the scores: :data:`RANDOM`, an encoder of the task picked at random.

    Args:
        scores: Columns encoder, task, score and value (null: undefined, and so left out), and
            flops where it is known; higher is better. At most one row of each.
        outcomes: Columns encoder, task, outcome (its name) and value, and flops of the adaptation
            where it is known. At most one row of each.
        replicates: Of the bootstrap.
    """
    if scores.empty or outcomes.empty:
        return ScoreValidation.nothing()
    rows: list[dict[str, Any]] = []
    parts: dict[_Key, dict[str, Floats]] = {}
    came = outcomes.dropna(subset=["value"])
    joined = came.merge(
        scores.dropna(subset=["value"]), on=["encoder", "task"], suffixes=("", "_of_score")
    )
    joined = joined.sort_values(["task", "encoder"], kind="stable")
    drawn = _Resamples(sorted({str(name) for name in came["encoder"]}), replicates)
    for key, part in joined.groupby(["outcome", "score", "task"], sort=False):
        if len(part) < LEAST:
            continue
        outcome, score, task = map(str, key)
        said, value = (part[name].to_numpy(float) for name in ("value_of_score", "value"))
        names = part["encoder"].to_numpy()
        measures, parts[outcome, score, task] = _measure(said, value, drawn.of(part))
        rows.append({"task": task, "outcome": outcome, "score": score, "encoders": len(part)})
        rows[-1] |= measures
        rows[-1] |= {"pick": names[said.argmax()], "best": names[value.argmax()]}
        rows[-1] |= {"relative_cost": _relative_cost(part)}
    validated = {(row["outcome"], row["task"]) for row in rows}
    # Blindly among those with any score, or the best might be one that no score could pick.
    pool = joined.drop_duplicates(["outcome", "task", "encoder"])
    for key, part in pool.groupby(["outcome", "task"], sort=False):
        outcome, task = map(str, key)
        if (outcome, task) in validated:
            value = part["value"].to_numpy(float)
            row, parts[outcome, RANDOM, task] = _at_random(value, drawn.of(part))
            rows.append({"task": task, "outcome": outcome, "score": RANDOM})
            rows[-1] |= {"encoders": len(part), **row}
    tasks = pd.DataFrame(rows, columns=_TASKS)
    return ScoreValidation(tasks, _summarise(tasks, parts, replicates))


class _Resamples:
    """Encoders sampled with replacement, the same for all tasks, whichever a task lacks."""

    def __init__(self, names: Sequence[str], replicates: int) -> None:
        self._place = {name: place for place, name in enumerate(names)}
        seed = int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8])
        drawn = np.random.default_rng(seed).integers(0, len(names), (replicates, len(names)))
        self._counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])

    def of(self, part: pd.DataFrame) -> Counts:
        """Count of each row's encoder in each replicate, (R, n)."""
        counts: Counts = self._counts[:, [self._place[str(name)] for name in part["encoder"]]]
        return counts


def _measure(
    said: Floats, value: Floats, counts: Counts
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Each statistic of the encoders as they are, and of the drawn ones; NaN of fewer than two."""
    once = np.ones((1, len(said)), np.int64)
    enough = (counts > 0).sum(axis=1) > 1
    values, replicates = {}, {}
    for name, how in STATISTICS.items():
        values[name] = float(how(said, value, once)[0])
        replicates[name] = np.full(len(counts), np.nan)
        replicates[name][enough] = how(said, value, counts[enough])
    return values, replicates


def _at_random(value: Floats, counts: Counts) -> tuple[dict[str, float], dict[str, Floats]]:
    """Expected statistics of an encoder picked at random."""
    total = counts.sum(axis=1)
    chance = min(1.0, LEAST / len(value))
    replicates = dict.fromkeys(STATISTICS, np.full(len(counts), np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(total > 0, (counts * value).sum(axis=1) / total, np.nan)
    best = np.where(counts > 0, value, -np.inf).max(axis=1)
    replicates["regret"] = np.where(total > 0, best - mean, np.nan)
    replicates["top3"] = np.full(len(counts), chance)
    return {"regret": float(value.max() - value.mean()), "top3": chance}, replicates


def _relative_cost(part: pd.DataFrame) -> float:
    """FLOPs of the score over those of the adaptation, summed over the encoders."""
    if not {"flops", "flops_of_score"} <= set(part.columns):
        return float("nan")
    spent = part[["flops_of_score", "flops"]].astype(float)
    priced = spent.notna().all(axis=1) & spent["flops"].gt(0)
    total = spent[priced].sum()
    return float(total["flops_of_score"] / total["flops"]) if priced.any() else float("nan")


def _summarise(
    tasks: pd.DataFrame, parts: Mapping[_Key, dict[str, Floats]], replicates: int
) -> pd.DataFrame:
    rows = []
    for key, group in tasks.groupby(["outcome", "score"], sort=False):
        outcome, score = map(str, key)
        told = group["regret" if score == RANDOM else "weighted_tau"].notna()
        row: dict[str, Any] = {
            "outcome": outcome,
            "score": score,
            "tasks": int(told.sum()),
            "encoders": int(group["encoders"].min()),
            "most": int(group["encoders"].max()),
        }
        chosen = np.random.default_rng(len(group)).integers(0, len(group), (len(group), replicates))
        for name in STATISTICS:
            row[name] = float(group[name].mean())
            drawn = np.stack([parts[outcome, score, task][name] for task in group["task"]])
            low, high = _interval(_mean(np.take_along_axis(drawn, chosen, axis=0)))
            row |= {f"{name}_low": low, f"{name}_high": high}
        row["relative_cost"] = float(group["relative_cost"].mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=_SUMMARY)


def _mean(values: Floats) -> Floats:
    """Over the tasks that are defined."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0))


def _interval(values: Floats) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if len(defined) < len(values) / 2:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def verdict(low: float, high: float, *, encoders: int) -> str:
    """Verdict on a rank correlation from its interval."""
    if np.isnan(low) or np.isnan(high) or encoders < FEW:
        return "inconclusive"
    if low > 0:
        return "better than chance"
    return "worse than chance" if high < 0 else "no better than chance"
