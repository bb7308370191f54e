"""Score against cost: Pareto fronts, and the best encoder within a cost limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.specs.split_name import IN_DOMAIN

PRICES = {
    "pareto_adaptation": "adaptation_flops",
    "pareto_inference": "inference_flops_per_image",
    "pareto_total": "total_flops",
}
"""Columns that mark a Pareto front, and the cost that each goes by."""


def mark_fronts(table: pd.DataFrame) -> pd.DataFrame:
    """Mark the encoders on the Pareto front of each cost.

    Args:
        table: With the headline score and the costs; encoders without one of the two are on none.

    Returns:
        The index of ``table``, one column of :data:`PRICES` each; null where the cost is unknown
        or there is no score.
    """
    marks = pd.DataFrame(index=table.index)
    score = table[IN_DOMAIN].to_numpy(float)
    for name, price in PRICES.items():
        cost = table[price].to_numpy(float)
        defined = np.isfinite(score) & np.isfinite(cost)
        as_good = (score >= score[:, None]) & (cost <= cost[:, None])  # [i, j]: j against i
        better = (score > score[:, None]) | (cost < cost[:, None])
        beaten = (as_good & better).any(axis=1)
        marks[name] = pd.Series(~beaten, index=table.index).astype("boolean").where(defined)
    return marks


def best_under(table: pd.DataFrame, price: str) -> pd.DataFrame:
    """List the best encoder up to each power of ten of a cost, without repeats.

    Returns:
        Columns budget (at most so much), encoder, the score and the cost.
    """
    defined = table[[IN_DOMAIN, price]].dropna().astype(float)
    if defined.empty:
        return pd.DataFrame(columns=["budget", "encoder", IN_DOMAIN, price])
    floor, ceiling = (math.ceil(math.log10(max(1, bound(defined[price])))) for bound in (min, max))
    rows: list[dict[str, Any]] = []
    for power in range(floor, ceiling + 1):
        affordable = defined[defined[price] <= 10.0**power]
        best = affordable.sort_values([IN_DOMAIN, price], ascending=[False, True]).iloc[0]
        if not rows or rows[-1]["encoder"] != best.name:
            rows.append({"budget": 10.0**power, "encoder": best.name, **best})
    return pd.DataFrame(rows)
