"""Two encoders side by side: paired differences with their intervals, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.frame import IN_DOMAIN
from medtransfer.ranking.resampling import Replicates, weigh
from medtransfer.ranking.table import cell_scores
from medtransfer.ranking.uncertainty import interval
from medtransfer.specs.record import Cell

__all__ = ["Difference", "compare_pair", "shared_cells"]

_FROZEN = ("knn", "linear", "decoder")


@dataclass(frozen=True)
class Difference:
    """One encoder's score minus another's, in one view.

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
        """Which one is shown to be better; ``none`` where the interval contains 0."""
        if np.isnan(self.low):
            return "unknown"
        return "first" if self.low > 0 else "second" if self.high < 0 else "none"


def compare_pair(
    laid_out: pd.DataFrame, replicates: Replicates, first: str, second: str
) -> list[Difference]:
    """Compare two encoders in every view, over the cells that both have.

    Args:
        laid_out: Table of `grid` with rows of both.
        replicates: Of its cells.
        first: Name of an encoder.
        second: Name of another.

    Returns:
        The views, then the domains, then the tasks; none of groups of which one lacks a cell.
    """
    cells = cell_scores(laid_out)
    places = cells.index.to_frame()[["task", "domain"]].drop_duplicates()
    domains = dict(places.itertuples(index=False, name=None))
    kinds = {str(task): kind for task, kind in cells["kind"].groupby(level="task").first().items()}
    found = []
    for split in (IN_DOMAIN, "out_of_domain"):
        scores = [_group_scores(cells, replicates.groups, split, name) for name in (first, second)]
        values = [
            replicates.inside(name) if split == IN_DOMAIN else replicates.outside(name)
            for name in (first, second)
        ]
        both = np.isfinite(scores[0]) & np.isfinite(scores[1])
        for (view, part), chosen in _views(replicates.groups, domains, kinds).items():
            rows = chosen & both
            if not rows.any() or (part == "view" and view != "overall" and (rows == both).all()):
                continue
            weights = weigh(replicates.groups[rows], domains)
            drawn = weights @ (values[0][rows] - values[1][rows])
            low, high = interval(drawn)
            a, b = (float(weights @ own[rows]) for own in scores)
            found.append(Difference(view, part, split, a, b, float(low), float(high)))
    return found


def shared_cells(laid_out: pd.DataFrame, first: str, second: str) -> list[Cell]:
    """The cells of which both have the in-domain result."""
    rows = laid_out[(laid_out["split"] == IN_DOMAIN) & laid_out["value"].notna()]
    names = list(Cell._fields)
    first_has, second_has = (
        set(rows.loc[rows["encoder"] == name, names].itertuples(index=False, name=None))
        for name in (first, second)
    )
    return [Cell(*key) for key in sorted(first_has & second_has)]


def _group_scores(
    cells: pd.DataFrame, groups: pd.DataFrame, column: str, encoder: str
) -> NDArray[np.float64]:
    """Mean over the draws of each group, (G,); NaN unless all are there."""
    own = cells[cells.index.isin([encoder], level="encoder")][column]
    keys = ["task", "budget", "adaptation"]
    by_group = own.groupby(level=keys)
    means = by_group.mean().where(by_group.count() == by_group.size())
    return means.reindex(pd.MultiIndex.from_frame(groups[keys])).to_numpy(float)


def _views(
    groups: pd.DataFrame, domains: Mapping[str, str], kinds: Mapping[str, str]
) -> dict[tuple[str, Literal["view", "domain", "task"]], NDArray[np.bool_]]:
    """Which groups belong to each view."""
    budget, adaptation = groups["budget"], groups["adaptation"]
    domain, kind = groups["task"].map(dict(domains)), groups["task"].map(dict(kinds))
    views: dict[tuple[str, Literal["view", "domain", "task"]], pd.Series[bool]] = {
        ("overall", "view"): budget.notna(),
        ("few-shot", "view"): budget != "full",
        ("full", "view"): budget == "full",
        ("frozen", "view"): adaptation.isin(_FROZEN),
        ("fine-tuned", "view"): adaptation == "finetune",
    }
    views |= {(name, "view"): kind == name for name in _names(kind)}
    views |= {(name, "domain"): domain == name for name in sorted(_names(domain))}
    views |= {(name, "task"): groups["task"] == name for name in _names(groups["task"])}
    return {key: mask.to_numpy() for key, mask in views.items()}


def _names(values: pd.Series[str]) -> Sequence[str]:
    return list(dict.fromkeys(values))
