"""Metrics of every kind of target: their description, their weights and their result.

Let N be the number of items, B of weightings. A metric maps predictions and labels of N items and
weights [B, N] to values [B]: a weight of k counts as k copies of the item, 0 as its absence, so
the point estimate is one row of ones and a bootstrap replicate a row of counts. NaN marks an
undefined value. Sums of whole-number weights are exact, whatever the order of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from medtransfer.metrics.bootstrap import interval

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]
Numbers = npt.NDArray[np.number]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Metric:
    """A metric as the reports know it."""

    name: str  # key in records
    title: str  # heading in tables
    function: Callable[[Floats, Integers, Floats], Floats]
    higher_is_better: bool
    # Expected value of scores that ignore the image, from the number of classes; None where it
    # depends on the prevalences or on the scores.
    chance: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of predictions; the dictionaries have the keys of its metrics."""

    values: dict[str, float | None]  # point estimates, None where undefined
    # Classes with a positive and a negative item, those averaged in AUROC; in segmentation the
    # foreground classes in the truth or the predictions, those averaged in Dice.
    classes_scored: int
    n: int  # items
    intervals: dict[str, tuple[float, float] | None]  # 95 % bootstrap percentile intervals
    replicates: dict[str, Floats]  # values [B] per row of weights, NaN where undefined
    # Point estimates of each foreground class, from class 1; segmentation only.
    per_class: dict[str, list[float | None]] = field(default_factory=dict)

    def flatten(self, classes: Sequence[str] = ()) -> dict[str, int | float | None]:
        """Values by the keys of a record's split: ``dice``, ``dice/<class>``, counts.

        Args:
            classes: Of the task, by label; the first is the background of masks.
        """
        per_class = {
            f"{metric}/{label}": value
            for metric, values in self.per_class.items()
            for label, value in zip(classes[1:], values, strict=True)
        }
        counts = {"classes_scored": self.classes_scored, "n": self.n}
        return {**self.values, **per_class, **counts}


def measure(
    metrics: Mapping[str, Metric],
    probabilities: Floats,
    labels: Integers,
    weights: Floats,
    *,
    classes_scored: int,
) -> Evaluation:
    """Compute every metric once for all items and once for each row of weights [B, N]."""
    functions = {
        name: partial(metric.function, probabilities, labels) for name, metric in metrics.items()
    }
    return summarise(functions, weights, classes_scored=classes_scored)


def summarise(
    functions: Mapping[str, Callable[[Floats], Floats]], weights: Floats, *, classes_scored: int
) -> Evaluation:
    """Call every function of weights once for all items and once for each row of weights [B, N]."""
    once = np.ones((1, weights.shape[1]))
    values: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    replicates: dict[str, Floats] = {}
    for name, function in functions.items():
        value = function(once).item()
        replicates[name] = function(weights)
        values[name] = None if np.isnan(value) else value
        intervals[name] = None if np.isnan(value) else interval(replicates[name])
    return Evaluation(values, classes_scored, weights.shape[1], intervals, replicates)


def refuse_weights(weights: Floats, n: int) -> None:
    """Raise a ValueError unless the weights are [B, n], finite and not negative."""
    if weights.ndim != 2 or weights.shape[1] != n:
        raise ValueError(f"weights must have shape (B, {n}), got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights must be finite and not negative")


def refuse_rows(probabilities: Floats, faults: Mapping[str, Booleans]) -> None:
    """Raise a ValueError that names the first fault and the first row that has it.

    Args:
        probabilities: [N, C].
        faults: Each fault's name and the rows that have it, [N].
    """
    for fault, rows in faults.items():
        if rows.any():
            first = rows.argmax()
            raise ValueError(
                f"probabilities {fault} in {rows.sum()} of {len(rows)} rows, "
                f"first in row {first}: {probabilities[first]}"
            )


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Divide, giving NaN instead of a warning where the denominator is 0."""
    quotient: Floats = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def average_defined(per_class: Floats) -> Floats:
    """Average values [B, C] over the classes that are not NaN, [B]; NaN if all are."""
    defined = ~np.isnan(per_class)
    return divide(np.where(defined, per_class, 0).sum(axis=1), defined.sum(axis=1))
