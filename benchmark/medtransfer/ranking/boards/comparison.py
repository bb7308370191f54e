"""Two encoders side by side: paired differences with their intervals, and what they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.boards.columns import few_shot, finetuned, frozen, full
from medtransfer.ranking.records.grid import Grid
from medtransfer.ranking.statistics.bootstrap import Replicates, weigh
from medtransfer.ranking.statistics.uncertainty import interval
from medtransfer.specs.split_name import IN_DOMAIN


@dataclass(frozen=True)
class Difference:
    """Score of one encoder minus that of another, in one view.

    Attributes:
        view: Its name; of a task the task's.
        part: ``view``, ``domain`` or ``task``.
        split: ``in_domain`` or ``out_of_domain``.
        first: Score of the first encoder.
        second: Score of the second.
        low: Of the 95 % interval of the difference first - second.
        high: The same.
    """

    view: str
    part: Literal["view", "domain", "task"]
    split: str
    first: float
    second: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["first", "second", "none", "unknown"]:
        """Name the encoder shown to be better; ``none`` where the interval contains 0."""
        if np.isnan(self.low):
            return "unknown"
        return "first" if self.low > 0 else "second" if self.high < 0 else "none"


def compare_pair(grid: Grid, replicates: Replicates, first: str, second: str) -> list[Difference]:
    """Compare two encoders in every view, over the cells that both have.

    Args:
        grid: Results of both, among others.
        replicates: In-domain and out-of-domain, of its cells.
        first: Name of an encoder.
        second: Name of another.

    Returns:
        The views, then the domains, then the tasks; none of groups of which one lacks a cell.
    """
    groups, rows = grid.groups, replicates.find(grid.groups)
    domains = dict(zip(groups["task"], groups["domain"], strict=True))
    found = []
    for split, drawn in ((IN_DOMAIN, replicates.inside), ("out_of_domain", replicates.outside)):
        scores = grid.columns[split][:, grid.find([first, second])]
        difference = drawn[first][rows] - drawn[second][rows]
        both = np.isfinite(scores).all(axis=1)
        for (view, part), chosen in _views(groups).items():
            shared = chosen & both
            if not shared.any() or (
                part == "view" and view != "overall" and (shared == both).all()
            ):
                continue
            weights = weigh(groups[shared], domains)
            low, high = interval(weights @ difference[shared])
            a, b = weights @ scores[shared]
            found.append(Difference(view, part, split, float(a), float(b), float(low), float(high)))
    return found


def shared_cells(grid: Grid, first: str, second: str) -> dict[str, int]:
    """By task the number of cells in the groups of which both have every in-domain result."""
    scores = grid.columns[IN_DOMAIN][:, grid.find([first, second])]
    both = grid.groups[np.isfinite(scores).all(axis=1)]
    return {str(task): int(count) for task, count in both.groupby("task")["draws"].sum().items()}


def _views(
    groups: pd.DataFrame,
) -> dict[tuple[str, Literal["view", "domain", "task"]], NDArray[np.bool_]]:
    """Groups of each view."""
    views: dict[tuple[str, Literal["view", "domain", "task"]], pd.Series[bool]] = {
        ("overall", "view"): groups["task"].notna(),
        ("few-shot", "view"): few_shot(groups),
        ("full", "view"): full(groups),
        ("frozen", "view"): frozen(groups),
        ("fine-tuned", "view"): finetuned(groups),
    }
    kinds = groups["kind"].dropna().unique()
    views |= {(name, "view"): groups["kind"] == name for name in kinds}
    views |= {
        (name, "domain"): groups["domain"] == name for name in sorted(groups["domain"].unique())
    }
    views |= {(name, "task"): groups["task"] == name for name in groups["task"].unique()}
    return {key: mask.to_numpy() for key, mask in views.items()}
