"""How well transferability scores predict: scores joined with outcomes. numpy and pandas only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

__all__ = ["LEAST", "RANDOM", "STATISTICS", "Judgement", "judge_scores", "verdict", "weighted_tau"]

Floats = NDArray[np.float64]

LEAST = 3
"""Encoders below which no rank correlation is looked at."""

RANDOM = "random pick"
"""What stands beside the scores: any encoder at all."""

_REPLICATES = 1000
_Key = tuple[str, str, str]  # outcome, score, task
_ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class Judgement:
    """Scores against outcomes.

    Attributes:
        tasks: One row a task, outcome and score: encoders (how many have both), weighted_tau,
            spearman, pearson, regret, top3, pick (the encoder with the highest score), best (that
            with the best outcome), and relative_cost, where it is known.
        summary: One row an outcome and score: tasks and encoders (how many), the mean over tasks
            of each of :data:`STATISTICS` and its 95 % interval, <name>_low and <name>_high, from
            a bootstrap of encoders and tasks, and relative_cost.
    """

    tasks: pd.DataFrame
    summary: pd.DataFrame

    @classmethod
    def nothing(cls) -> Judgement:
        """Of no score at all."""
        return cls(pd.DataFrame(columns=_TASKS), pd.DataFrame(columns=_SUMMARY))


def weighted_tau(first: Floats, second: Floats) -> Floats:
    """Kendall's tau in which disagreements among the best count most, row by row.

    Vigna, A weighted correlation index for rankings with ties, WWW 2015: additive hyperbolic
    weights 1 / (1 + r), r an item's place among the highest; the mean over the ranks by (first,
    second) and by (second, first). As `scipy.stats.weightedtau`, for many rows at once.

    Args:
        first: (R, n).
        second: (R, n).

    Returns:
        (R,); NaN where all items tie in one of the two.
    """
    agree = np.sign(first[:, :, None] - first[:, None]) * np.sign(
        second[:, :, None] - second[:, None]
    )
    ties = [np.sign(own[:, :, None] - own[:, None]) ** 2 for own in (first, second)]
    taus = []
    for major, minor in ((first, second), (second, first)):
        order = np.lexsort((minor, major), axis=1)[:, ::-1]
        weight = np.empty_like(first)
        np.put_along_axis(weight, order, 1 / (1 + np.arange(first.shape[1]))[None], axis=1)
        pairs = weight[:, :, None] + weight[:, None]
        norm = np.sqrt(np.prod([(pairs * own).sum(axis=(1, 2)) for own in ties], axis=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            taus.append((pairs * agree).sum(axis=(1, 2)) / norm)
    return np.asarray(np.clip(np.mean(taus, axis=0), -1, 1))


def _pearson(first: Floats, second: Floats) -> Floats:
    one, other = (own - own.mean(axis=1, keepdims=True) for own in (first, second))
    norm = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    flat = norm <= 1e-14 * np.abs(first).max(axis=1) * np.abs(second).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flat, np.nan, (one * other).sum(axis=1) / norm)


def _spearman(first: Floats, second: Floats) -> Floats:
    return _pearson(stats.rankdata(first, axis=1), stats.rankdata(second, axis=1))


def _regret(score: Floats, outcome: Floats) -> Floats:
    """Best outcome minus that of the top-scored; of several at the top their mean."""
    top = score == score.max(axis=1, keepdims=True)
    picked = (outcome * top).sum(axis=1) / top.sum(axis=1)
    return np.asarray(outcome.max(axis=1) - picked)


def _top3(score: Floats, outcome: Floats) -> Floats:
    """Whether the best is among the three with the highest scores, ties going against it."""
    best = outcome.argmax(axis=1)
    own = np.take_along_axis(score, best[:, None], axis=1)
    return np.asarray(((score >= own).sum(axis=1) <= LEAST).astype(float))


STATISTICS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "weighted_tau": weighted_tau,
    "spearman": _spearman,
    "pearson": _pearson,
    "regret": _regret,
    "top3": _top3,
}
"""What a score is judged by: from scores and outcomes, (R, n) each, to values (R,)."""

_TASKS = ["task", "outcome", "score", "encoders", *STATISTICS, "pick", "best", "relative_cost"]
_SUMMARY = ["outcome", "score", "tasks", "encoders"]
_SUMMARY += [f"{name}{end}" for name in STATISTICS for end in ("", "_low", "_high")]
_SUMMARY += ["relative_cost"]


def judge_scores(
    scores: pd.DataFrame, outcomes: pd.DataFrame, *, replicates: int = _REPLICATES
) -> Judgement:
    """Compare what scores said with what came out.

    Beside the scores stands ``random pick``: what picking any encoder is worth.

    Args:
        scores: Columns encoder, task, score and value (null: undefined, and so left out), and
            flops where it is known; higher is better.
        outcomes: Columns encoder, task, outcome (its name) and value, and flops of the adaptation
            where it is known.
        replicates: Of the bootstrap.
    """
    if scores.empty or outcomes.empty:
        return Judgement.nothing()
    rows: list[dict[str, Any]] = []
    parts: dict[_Key, dict[str, Floats]] = {}
    joined = outcomes.merge(
        scores.dropna(subset=["value"]), on=["encoder", "task"], suffixes=("", "_of_score")
    ).dropna(subset=["value"])
    joined = joined.sort_values(["task", "encoder"], kind="stable")
    for key, part in joined.groupby(["outcome", "score", "task"], sort=False):
        if len(part) < LEAST:
            continue
        outcome, score, task = map(str, key)
        names = [str(name) for name in part["encoder"]]
        found = part["value_of_score"].to_numpy(float), part["value"].to_numpy(float)
        one = {name: float(how(*(v[None] for v in found))[0]) for name, how in STATISTICS.items()}
        picks = _draw(names, replicates)
        drawn = [values[picks] for values in found]
        parts[outcome, score, task] = {name: how(*drawn) for name, how in STATISTICS.items()}
        rows.append(
            {
                "task": task,
                "outcome": outcome,
                "score": score,
                "encoders": len(part),
                **one,
                "pick": names[found[0].argmax()],
                "best": names[found[1].argmax()],
                "relative_cost": _relative_cost(part),
            }
        )
        if (outcome, RANDOM, task) not in parts:
            parts[outcome, RANDOM, task], row = _at_random(found[1], drawn[1])
            rows.append({"task": task, "outcome": outcome, "score": RANDOM, **row})
            rows[-1]["encoders"] = len(part)
    tasks = pd.DataFrame(rows, columns=_TASKS)
    return Judgement(tasks, _summarise(tasks, parts, replicates))


def _at_random(outcome: Floats, drawn: Floats) -> tuple[dict[str, Floats], dict[str, float]]:
    """What is expected of an encoder that is picked blindly."""
    nothing = np.full(len(drawn), np.nan)
    chance = min(1.0, LEAST / len(outcome))
    replicates = {name: nothing for name in STATISTICS}
    replicates["regret"] = drawn.max(axis=1) - drawn.mean(axis=1)
    replicates["top3"] = np.full(len(drawn), chance)
    return replicates, {"regret": float(outcome.max() - outcome.mean()), "top3": chance}


def _draw(names: Sequence[str], replicates: int) -> NDArray[np.int64]:
    """Encoders with replacement, (R, n); the same for the same encoders, whatever the task."""
    seed = int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8])
    return np.random.default_rng(seed).integers(0, len(names), (replicates, len(names)))


def _relative_cost(part: pd.DataFrame) -> float:
    """FLOPs of the score over those of the adaptation, summed over the encoders."""
    if not {"flops", "flops_of_score"} <= set(part.columns):
        return float("nan")
    spent = part[["flops_of_score", "flops"]].astype(float)
    known = spent.notna().all(axis=1) & spent["flops"].gt(0)
    total = spent[known].sum()
    return float(total["flops_of_score"] / total["flops"]) if known.any() else float("nan")


def _summarise(
    tasks: pd.DataFrame, parts: Mapping[_Key, dict[str, Floats]], replicates: int
) -> pd.DataFrame:
    rows = []
    for key, own in tasks.groupby(["outcome", "score"], sort=False):
        outcome, score = map(str, key)
        row: dict[str, Any] = {
            "outcome": outcome,
            "score": score,
            "tasks": len(own),
            "encoders": int(own["encoders"].max()),
        }
        chosen = np.random.default_rng(len(own)).integers(0, len(own), (len(own), replicates))
        for name in STATISTICS:
            row[name] = float(own[name].mean(skipna=False)) if len(own) else float("nan")
            drawn = np.stack([parts[outcome, score, task][name] for task in own["task"]])
            mean = _mean(np.take_along_axis(drawn, chosen, axis=0))
            low, high = _interval(mean)
            row |= {f"{name}_low": low, f"{name}_high": high}
        row["relative_cost"] = float(own["relative_cost"].mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=_SUMMARY)


def _mean(values: Floats) -> Floats:
    """Over tasks, of those where the drawn encoders do not all tie."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=0) / known.sum(axis=0))


def _interval(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if len(known) < len(values) / 2:
        return float("nan"), float("nan")
    low, high = np.percentile(known, _ENDS)
    return float(low), float(high)


def verdict(low: float, high: float) -> str:
    """What the interval of a rank correlation allows to say."""
    if np.isnan(low) or np.isnan(high):
        return "cannot be told"
    if low > 0:
        return "better than chance"
    return "worse than chance" if high < 0 else "no better than chance"
