"""Bootstrap replicates of a test split as item weights, and percentile intervals.

A bootstrap replicate repeats some items of a split and omits others; an item's weight is its
number of repetitions. The weights depend on the task and the split only, so every encoder is
scored on the same replicates: replicate b of one encoder minus replicate b of another is a
replicate of their paired difference. The replicates of a metric are enough to compare encoders
later, without predictions (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapters 8, 13).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_PERCENTILES = (2.5, 97.5)
# Below this share, the defined replicates would be a biased sample.
_LEAST_DEFINED = 0.5


def item_weights(
    task: str,
    split: str,
    n: int,
    *,
    replicates: int = 200,
    groups: Sequence[str | int] | None = None,
) -> npt.NDArray[np.float64]:
    """Draw the multinomial weights of the bootstrap replicates of a split.

    The weights are whole numbers, the same in every process and on every machine; asking for more
    replicates keeps the first ones. They depend on the order of the items, which must be that of
    the split.

    Args:
        task: Name of the task.
        split: Name of the split, for example ``in_domain``.
        n: Number of items in the split.
        replicates: Number of replicates B.
        groups: Group (patient) of each item, length n. Whole groups are drawn with replacement,
            because images of one patient are not independent; each item gets its group's count.

    Returns:
        Weights [B, n], counts held as float64, in the order of the items. Each row sums to n, or,
        with groups, to the number of items in the groups drawn.

    Raises:
        ValueError: If n or replicates is not positive or groups has another length than n.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    if groups is None:
        groups = range(n)
    if len(groups) != n:
        raise ValueError(f"groups has {len(groups)} entries for {n} items")

    # Numbered by first appearance, so groups of one item each are equivalent to no groups.
    numbers: dict[str | int, int] = {}
    group_of_item = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    count = len(numbers)

    seed = int.from_bytes(hashlib.sha256(f"{task}/{split}".encode()).digest(), "big")
    bits = np.random.PCG64(seed)
    weights = np.empty((replicates, n))
    for row in weights:
        # numpy guarantees the raw stream of PCG64 for a seed, but not what its Generator makes of
        # it (multinomial and integers may change with any release, NEP 19). So draws are made here
        # from the upper 32 bits r by floor(r * count / 2^32), in integers; probabilities differ
        # from 1 / count by at most 2^-32.
        upper = bits.random_raw(count) >> np.uint64(32)
        drawn = (upper * np.uint64(count)) >> np.uint64(32)
        row[:] = np.bincount(drawn.astype(np.intp), minlength=count)[group_of_item]
    return weights


def interval(replicates: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Compute the 95 % percentile interval of a metric's bootstrap replicates.

    Args:
        replicates: Values [B], in the metric's unit; NaN where a replicate is undefined.

    Returns:
        The 2.5th and 97.5th percentile of the finite replicates, or None if there is none or if
        fewer than half are finite.

    Raises:
        ValueError: If replicates is not one-dimensional.
    """
    if replicates.ndim != 1:
        raise ValueError(f"replicates must have one dimension, got shape {replicates.shape}")
    finite = replicates[np.isfinite(replicates)]
    if finite.size == 0 or finite.size < _LEAST_DEFINED * replicates.size:
        return None
    lower, upper = np.percentile(finite, _PERCENTILES)
    return float(lower), float(upper)
