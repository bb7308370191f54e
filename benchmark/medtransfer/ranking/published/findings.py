"""Findings of a study, recomputed as comparisons of its results, and their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from medtransfer.core.text import MISSING
from medtransfer.ranking.published.study import (
    PublishedCell,
    PublishedRecord,
    Study,
)

LEGEND = (
    "A finding is shown when all of its comparisons are as claimed. Difference: first encoder "
    "minus second, over the n draws that both have, with its 95 % interval (paired t). Not "
    "resolved: the interval contains 0. Place: of either encoder by the mean of that metric, among "
    "those with all draws."
)

_COLUMNS = ["finding", "a", "b", "task", "budget", "metric", "expected", "n", "difference"]
_COLUMNS += ["low", "high", "verdict", "rank_a", "rank_b", "ranked"]


def compare_findings(
    study: Study, records: Sequence[PublishedRecord], results: pd.DataFrame
) -> pd.DataFrame:
    """Compare encoders as the study's findings claim.

    Each comparison is paired by draw and gets the 95 % interval of Student's t over the n draws
    that both encoders have: mean difference ± t(n - 1) s / √n. With the five draws of most studies
    a bootstrap would be too narrow. A finding holds when every one of its comparisons does
    (intersection-union test: Berger 1982, Technometrics 24, 295-300), so their number needs no
    correction.

    Args:
        study: The study.
        records: Its records.
        results: Its results by metric, with rank and ranked.

    Returns:
        One row per comparison: finding (its number), a, b, task, budget, metric, expected (above,
        below), n (paired draws), difference (a - b), low and high (its 95 % interval), verdict
        (``as claimed``, ``opposite``, ``not resolved``: the interval contains 0, or ``no data``),
        rank_a, rank_b and ranked (among the encoders with all draws).
    """
    keys = ["encoder", "task", "budget", "metric"]
    ranks = results.set_index(keys)[["rank", "ranked"]].to_dict("index")
    metrics: dict[PublishedCell, Mapping[Any, float]] = {
        record.cell: record.metrics for record in records
    }
    rows = []
    for number, finding in enumerate(study.findings):
        for expected, pair in product(finding.expect, finding.pairs):
            for task in pair.tasks:
                budget, metric = expected.budget, expected.metric
                values = [
                    [
                        metrics.get(PublishedCell(name, task, budget, draw), {}).get(metric)
                        for draw in range(len(study.draws))
                    ]
                    for name in (pair.a, pair.b)
                ]
                a, b = pd.DataFrame(values, dtype=float).to_numpy()
                places = [ranks[name, task, budget, metric] for name in (pair.a, pair.b)]
                claim = [number, pair.a, pair.b, task, budget, metric, expected.a]
                shown = _compare(pd.Series(a - b).dropna(), expected.a)
                ranked = [*(place["rank"] for place in places), places[0]["ranked"]]
                rows.append([*claim, *shown, *ranked])
    return pd.DataFrame(rows, columns=_COLUMNS)


def _compare(differences: pd.Series[float], side: str) -> list[Any]:
    """Number of differences, their mean, its interval, and the verdict."""
    low, high = _interval(differences)
    if pd.isna(low):
        verdict = "no data"
    elif low <= 0 <= high:
        verdict = "not resolved"
    else:
        verdict = "as claimed" if (low > 0) == (side == "above") else "opposite"
    return [len(differences), differences.mean(), low, high, verdict]


def _interval(differences: pd.Series[float]) -> tuple[float, float]:
    """95 % interval of the mean by Student's t; null for fewer than two values."""
    from scipy.special import stdtrit  # late: a board without findings needs no scipy

    if (n := len(differences)) < 2:
        return float("nan"), float("nan")
    half = float(stdtrit(n - 1, 0.975)) * float(differences.std()) / n**0.5
    mean = float(differences.mean())
    return mean - half, mean + half


def describe_findings(study: Study, comparisons: pd.DataFrame) -> list[dict[str, Any]]:
    """Words of the findings, before any markup.

    Args:
        study: The study.
        comparisons: From `compare_findings`.

    Returns:
        For each finding title, text, shown (whether every comparison is as claimed), lines (one
        per expectation) and a table of the comparisons: head and rows.
    """
    parts = [comparisons[comparisons["finding"] == number] for number in range(len(study.findings))]
    return [
        {
            "title": finding.title,
            "text": finding.text,
            "shown": bool(part["verdict"].eq("as claimed").all()),
            "lines": _summarise(part),
            "head": _HEAD,
            "rows": [_row(row) for row in part.to_dict("records")],
        }
        for finding, part in zip(study.findings, parts, strict=True)
    ]


def _summarise(comparisons: pd.DataFrame) -> list[str]:
    """Describe each expectation in one line: comparisons that hold, and their differences."""
    lines = []
    by = ["budget", "metric", "expected"]
    for (budget, metric, side), part in comparisons.groupby(by, sort=False):
        counts = part["verdict"].value_counts()
        others = [
            f"{counts[verdict]} {verdict}"
            for verdict in ("opposite", "not resolved", "no data")
            if verdict in counts
        ]
        held = f"{counts.get('as claimed', 0)} of {len(part)} {side}"
        low, high = _signed(part["difference"].min()), _signed(part["difference"].max())
        span = f"{low} to {high}" if len(part) > 1 else low
        lines.append(f"{budget}, {metric}: {', '.join([held, *others])}; difference {span}")
    return lines


_HEAD = ["Encoders", "Target", "Budget", "Metric", "Difference", "95 % interval", "n", "Place"]
_HEAD += ["Verdict"]


def _row(row: Mapping[Any, Any]) -> list[str]:
    places = [MISSING if pd.isna(row[name]) else f"{row[name]:.0f}" for name in _PLACES]
    return [
        f"{row['a']} - {row['b']}",
        row["task"],
        row["budget"],
        row["metric"],
        _signed(row["difference"]),
        f"{_signed(row['low'])} to {_signed(row['high'])}",
        str(row["n"]),
        f"{places[0]}, {places[1]} of {places[2]}",
        row["verdict"],
    ]


_PLACES = ("rank_a", "rank_b", "ranked")


def _signed(value: float) -> str:
    return MISSING if pd.isna(value) else f"{round(value, 3) + 0.0:+.3f}"
