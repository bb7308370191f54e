"""Figures of the leaderboard: data, words and file names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd

from medtransfer.core.text import MISSING, quantity, shorten
from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.boards.columns import spans
from medtransfer.specs.split_name import IN_DOMAIN
from medtransfer.specs.task import Budget

FOLDER = "figures"

_MOST = 30  # encoders, or source domains
_MOST_CURVES = 8  # as many as there are colours
_FAMILIES = {"Frozen": ("knn", "linear", "decoder"), "Fine-tuned": ("finetune",)}
_BUDGETS = get_args(Budget)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
        chart: How it is drawn, for `draw` of the charts.
        name: Of the file, from the leaderboard's folder.
        title: Over the picture, two lines.
        alt: The picture in words.
        caption: What is shown of what.
        rows: What is drawn; numbers are rounded, since their last bits differ between machines.
    """

    chart: str
    name: str
    title: tuple[str, str]
    alt: str
    caption: str
    rows: Rows


def figures(board: Board) -> dict[str, Figure]:
    """The figures that the board can fill, by chart: scores, cost, curves and domains.

    A board of one kind of task has none: it is a part of the board of the whole suite.
    """
    ranked = board.table[board.table["rank"].notna()]
    if board.kind or ranked.empty:
        return {}
    drawn = [_scores(ranked), _cost(ranked), _curves(board, ranked), _domains(board)]
    subtitle = f"protocol {board.protocol}, suite {board.suite}"
    stem = f"{FOLDER}/{slug(board.protocol)}_{slug(board.suite)}"
    return {
        chart: Figure(
            chart=chart,
            name=f"{stem}_{chart}.svg",
            title=(title, shorten(subtitle, 90)),
            alt=alt,
            caption=caption,
            rows=rows,
        )
        for chart, title, alt, caption, rows in drawn
        if rows
    }


_Parts = tuple[str, str, str, str, Rows]


def _scores(ranked: pd.DataFrame) -> _Parts:
    """Rows: encoder (with its rank), score, low and high (or null), and the note at its right."""
    shown = ranked.head(_MOST)
    places = spans(shown, "rank_low", "rank_high", "count")
    rows = [
        {
            "encoder": f"{row['rank']} {label}",
            "score": _round(row[IN_DOMAIN]),
            "low": _round(row[f"{IN_DOMAIN}_low"]),
            "high": _round(row[f"{IN_DOMAIN}_high"]),
            "note": quantity(row[IN_DOMAIN], "score")
            + ("" if place == MISSING else f", rank {place}"),
        }
        for label, place, (_, row) in zip(
            _labels(shown.index, 56), places, shown.iterrows(), strict=True
        )
    ]
    ends = [
        f"{shorten(shown.index[at], 80)} ({quantity(shown[IN_DOMAIN].iloc[at], 'score')})"
        for at in (0, -1)
    ]
    span = f"from {ends[0]} to {ends[1]}" if len(shown) > 1 else ends[0]
    return (
        "scores",
        "In-domain score and rank, with 95 % intervals",
        f"Forest plot of the in-domain score of {_count(len(shown))} in rank order, {span}.",
        "In-domain score in rank order; line and ranks are 95 % intervals."
        + _part_of(len(shown), len(ranked)),
        rows,
    )


def _cost(ranked: pd.DataFrame) -> _Parts:
    """Rows: encoder, score, cost, best (yes, no), and its label on the one side or the other."""
    priced = ranked[ranked["adaptation_flops"] > 0]
    front = priced["pareto_adaptation"].fillna(False).astype(bool)
    shown = pd.concat([priced[front], priced[~front]]).head(_MOST)
    best = set(priced.index[front])
    rows: Rows = [
        {
            "encoder": label,
            "score": _round(row[IN_DOMAIN]),
            "cost": float(f"{row['adaptation_flops']:.4g}"),
            "best": "yes" if name in best else "no",
            "right": "",
            "left": "",
        }
        for label, (name, row) in zip(_labels(shown.index, 24), shown.iterrows(), strict=True)
    ]
    _place(rows)
    listed = ", ".join(str(name) for name in shown.index if name in best)
    named = all(row["right"] or row["left"] for row in rows)
    return (
        "cost",
        "In-domain score against adaptation FLOPs",
        f"Scatter plot of the in-domain score of {_count(len(shown))} against the FLOPs of their "
        f"adaptation; on the Pareto front: {shorten(listed, 300)}.",
        "The line joins the Pareto front: encoders that no other beats at their adaptation FLOPs."
        + ("" if named else " Labels are drawn where there is room.")
        + _part_of(len(shown), len(priced), "The front and the best of the others"),
        rows if len({row["score"] for row in rows}) > 1 else [],
    )


def _place(rows: Rows) -> None:
    """Label what has room, in the order of the rows; sizes are roughly those of the chart."""
    logs = [math.log(row["cost"]) for row in rows]
    scores = [row["score"] for row in rows]
    points = [
        (_within(log, logs) * 720, _within(score, scores) * 300)
        for log, score in zip(logs, scores, strict=True)
    ]
    taken: list[tuple[float, float, float]] = []  # left, right, height
    for row, (x, y) in zip(rows, points, strict=True):
        width = 6.5 * len(row["encoder"])
        for side, left in (("right", x + 4), ("left", x - 4 - width)):
            free = not any(
                left < right and start < left + width and abs(y - height) < 18
                for start, right, height in taken
            )
            clear = not any(left < px < left + width and -3 < py - y < 24 for px, py in points)
            if free and clear and left > -40 and left + width < 760:
                row[side] = row["encoder"]
                taken.append((left, left + width, y))
                break


def _within(value: float, values: Sequence[float]) -> float:
    """Position of a value between the smallest and the largest, 0 to 1."""
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0.5


def _curves(board: Board, ranked: pd.DataFrame) -> _Parts:
    """Rows: panel, encoder, budget and score, in the order of panels, ranks and budgets."""
    shown = ranked.index[:_MOST_CURVES]
    labels = dict(zip(shown, _labels(shown, 24), strict=True))
    results = board.results
    results = results[(results["split"] == IN_DOMAIN) & results["encoder"].isin(shown)]
    chance = results["chance"]
    results = results.assign(score=(results["mean"] - chance) / (1 - chance))
    rows: Rows = []
    for family, adaptations in _FAMILIES.items():
        part = _with_every_budget(results[results["adaptation"].isin(adaptations)])
        scores = _average(part)
        budgets = [budget for budget in _BUDGETS if budget in set(part["budget"])]
        if len(budgets) > 1:
            names = [name for name in adaptations if name in set(part["adaptation"])]
            suffix = "" if len(names) == 1 else f" ({', '.join(names)})"
            tasks = part["task"].nunique()
            panel = f"{family}{suffix}, {tasks} task{'s' if tasks > 1 else ''}"
            rows += [
                {"panel": panel, "encoder": label, "budget": budget, "score": _round(value)}
                for name, label in labels.items()
                for budget in budgets
                if not pd.isna(value := scores[name, budget])
            ]
    panels = "; ".join(dict.fromkeys(row["panel"] for row in rows))
    return (
        "curves",
        "In-domain score over the budget",
        f"Line charts of the in-domain score of {_count(len(shown))} over the budgets: {panels}.",
        "In-domain score over budgets, each panel over the tasks that have every budget of it."
        + _part_of(len(shown), len(ranked)),
        rows,
    )


def _with_every_budget(results: pd.DataFrame) -> pd.DataFrame:
    """The tasks that have all budgets: a curve over changing tasks would show their difference."""
    budgets = results.groupby("task")["budget"].nunique()
    whole = budgets.index[budgets == results["budget"].nunique()]
    return results[results["task"].isin(whole)]


def _average(results: pd.DataFrame) -> pd.Series[float]:
    """By encoder and budget: the board's mean over adaptations, then tasks, then domains.

    A missing value stays missing.
    """
    levels = ["encoder", "budget", "domain", "task", "adaptation"]
    scores = results.set_index(levels)["score"]
    for depth in (4, 3, 2):
        groups = scores.groupby(level=levels[:depth])
        scores = groups.mean().where(groups.count() == groups.size())
    return scores


def _domains(board: Board) -> _Parts:
    """Rows: source, target, score and intra (yes, no); none with a single source."""
    heat = board.source_domains
    order = sorted(heat.scores.index, key=lambda source: -heat.encoders[source])[:_MOST]
    shown = heat.scores.loc[sorted(order)]
    rows: Rows = [
        {
            "source": label,
            "target": target,
            "score": _round(score),
            "intra": "yes" if domain in str(source).split(" + ") else "no",
        }
        for label, (source, scores) in zip(_labels(shown.index, 30), shown.iterrows(), strict=True)
        for target, (domain, score) in zip(_labels(shown.columns, 20), scores.items(), strict=True)
        if not pd.isna(score)
    ]
    sources = f"{len(shown)} source domains"
    return (
        "domains",
        "In-domain score by source and target domain",
        f"Heat map of the mean in-domain score of the encoders of {sources} on "
        f"{len(shown.columns)} target domains.",
        "Mean in-domain score of the encoders of a source domain (rows) on each target domain "
        "(columns); outlined where they are the same."
        + _part_of(len(shown), len(heat.scores), "The sources of the most encoders"),
        rows if len(shown) > 1 else [],
    )


def _labels(names: Iterable[Any], most: int) -> list[str]:
    """Names cut to a length, still all different."""
    labels: list[str] = []
    for name in names:
        label = shorten(name, most)
        if label in labels:
            number = f" #{len(labels) + 1}"
            label = shorten(name, most - len(number)) + number
        labels.append(label)
    return labels


def _part_of(shown: int, total: int, lead: str = "The best") -> str:
    return "" if shown == total else f" {lead}: {shown} of {total}."


def _count(number: int) -> str:
    return f"{number} encoder{'s' if number > 1 else ''}"


def _round(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 6) + 0.0


def slug(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub("[^a-z0-9]+", "-", text.lower())
