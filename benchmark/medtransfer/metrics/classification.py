"""Metrics of multiclass predictions, weighted and computed for many weightings at once.

Let N be the number of items, C of classes, B of weightings. A metric maps probabilities [N, C],
labels [N] and weights [B, N] to values [B], NaN where undefined; what a weight means stands in
``evaluation``. The ``score_`` functions take columns that need not exclude each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medtransfer.metrics.evaluation import (
    Booleans,
    Evaluation,
    Floats,
    Integers,
    Metric,
    average_defined,
    divide,
    measure,
    refuse_rows,
    refuse_weights,
)

_ECE_BINS = 15
_SUM_TOLERANCE = 1e-4  # a softmax in half precision that is off by more has another fault
_BLOCK = 2**17  # numbers in one block of replicates: 1 MiB, which stays in the cache


def score_auroc(
    scores: Floats, targets: Booleans, weights: Floats, *, known: Booleans | None = None
) -> Floats:
    """Compute the AUROC of each column, a tie between a positive and a negative counting half.

    Hanley and McNeil (1982): the probability that a positive is scored above a negative. With
    T(j) the positive weight above item j plus half of that tied with it, the pairs won are
    sum_j w_j T(j) over the negatives j; over all items the sum has P^2 / 2 more, P being the
    weight of the positives. T takes at most 2m + 1 values, m the number of distinct scores of
    positives, so only the positives are accumulated and the items look their value up.

    Args:
        scores: Scores [N, C].
        targets: Whether an item is positive for a column, [N, C].
        weights: Item weights [B, N].
        known: Whether an item counts for a column, [N, C], as all targets do; None: all count.

    Returns:
        AUROC [B, C]; NaN where the weight of the positives or of the negatives is 0.
    """
    known = np.ones_like(targets) if known is None else known
    positives, negatives = weights @ targets, weights @ (known & ~targets)
    won = np.zeros_like(positives)
    plans = []
    for column, (items, thresholds, bounds) in _sort_positives(scores, targets):
        keys = -scores[:, column]
        # T of a score between thresholds g - 1 and g stands at g of the table, T of a score equal
        # to threshold g at m + 1 + g.
        place = np.searchsorted(thresholds, keys)
        tied = thresholds[np.minimum(place, thresholds.size - 1)] == keys
        # An item that does not count is put where T is 0.
        plans.append((column, items, bounds, (place + tied * bounds.size) * known[:, column]))
    for rows, block in _split_replicates(weights):
        for column, items, bounds, place in plans:
            above = _accumulate(block, items).take(bounds, axis=1)
            table = np.concatenate([above, (above[:, :-1] + above[:, 1:]) / 2], axis=1)
            # Row times row as matrix products, which BLAS does faster than einsum.
            products = block[:, None, :] @ table.take(place, axis=1)[:, :, None]
            won[rows, column] = products[:, 0, 0]
    return divide(won - positives**2 / 2, positives * negatives)


def score_average_precision(
    scores: Floats, targets: Booleans, weights: Floats, *, known: Booleans | None = None
) -> Floats:
    """Compute the average precision of each column.

    The sum over thresholds of precision times the increase in recall, without interpolation,
    equal scores sharing a threshold, as in scikit-learn. Recall rises only at scores of positives.

    Args:
        scores: Scores [N, C].
        targets: Whether an item is positive for a column, [N, C].
        weights: Item weights [B, N].
        known: Whether an item counts for a column, [N, C], as all targets do; None: all count.

    Returns:
        Average precision [B, C]; NaN where the weight of the positives is 0.
    """
    known = np.ones_like(targets) if known is None else known
    total = np.zeros((len(weights), scores.shape[1]))
    plans = []
    for column, (items, thresholds, bounds) in _sort_positives(scores, targets):
        keys = -scores[:, column]
        counted = np.flatnonzero(known[:, column])
        order = counted[np.argsort(keys[counted], kind="stable")]
        ends = np.searchsorted(keys[order], thresholds, side="right")
        plans.append((column, items, bounds, order[: ends[-1]], np.append(0, ends[:-1])))
    for rows, block in _split_replicates(weights):
        for column, items, bounds, order, starts in plans:
            hits = _accumulate(block, items).take(bounds, axis=1)
            chosen = np.add.reduceat(block.take(order, axis=1), starts, axis=1).cumsum(axis=1)
            # Where nothing is chosen nothing is found either, so 1 stands in for 0.
            precision = hits[:, 1:] / np.where(chosen > 0, chosen, 1)
            total[rows, column] = np.einsum("bm,bm->b", np.diff(hits), precision)
    return divide(total, weights @ targets)


def score_ece(
    confidences: Floats, hits: Booleans, weights: Floats, *, known: Booleans | None = None
) -> Floats:
    """Compute the expected calibration error of each column in 15 equal-width bins.

    The mean over items of the absolute difference between the share of hits and the mean
    confidence of the item's bin (lower, upper].

    Args:
        confidences: Probabilities [N, C] that were given to a hit.
        hits: Whether it was one, [N, C].
        weights: Item weights [B, N].
        known: Whether an item counts for a column, [N, C]; None: all count.

    Returns:
        Calibration error [B, C]; NaN where no item has weight.
    """
    known = np.ones_like(hits) if known is None else known
    edges = np.linspace(0, 1, _ECE_BINS + 1)[1:-1]
    bins = np.searchsorted(edges, confidences, side="left")
    excess = (hits - confidences) * known
    total = np.empty((len(weights), hits.shape[1]))
    for column in range(hits.shape[1]):
        spread = np.zeros((len(hits), _ECE_BINS))
        spread[np.arange(len(hits)), bins[:, column]] = excess[:, column]
        total[:, column] = np.abs(weights @ spread).sum(axis=1)
    return divide(total, weights @ known)


def compute_auroc(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the one-vs-rest AUROC over the classes with a positive and a negative item.

    With two classes it is the AUROC of class 1. Arguments and result as in the module docstring.
    """
    return average_defined(score_auroc(*_one_vs_rest(probabilities, labels), weights))


def compute_average_precision(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the one-vs-rest average precision over the classes with a positive item.

    With two classes it is that of class 1. Arguments and result as in the module docstring.
    """
    return average_defined(score_average_precision(*_one_vs_rest(probabilities, labels), weights))


def compute_accuracy(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Compute the share of items whose most probable class (the first, if tied) is the label."""
    return divide(weights @ (probabilities.argmax(axis=1) == labels), weights.sum(axis=1))


def compute_balanced_accuracy(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the recall over the classes that are present in the labels."""
    hits, actual, _ = _count(probabilities, labels, weights)
    return average_defined(divide(hits, actual))


def compute_f1(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average F1 = 2 TP / (2 TP + FP + FN) over the classes in the labels or the predictions.

    A class in only one of them has F1 = 0, a class in neither is left out, an item of weight 0 is
    in neither. This is scikit-learn's ``f1_score(average="macro", zero_division=0)`` with its
    default label set, computed on the items repeated as often as their weights say.
    """
    hits, actual, predicted = _count(probabilities, labels, weights)
    return average_defined(divide(2 * hits, actual + predicted))


def compute_ece(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Compute the expected calibration error of the most probable class in 15 equal-width bins.

    Guo et al. (2017), "On Calibration of Modern Neural Networks".
    """
    hits = probabilities.argmax(axis=1) == labels
    return score_ece(probabilities.max(axis=1)[:, None], hits[:, None], weights)[:, 0]


def compute_brier(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Compute the Brier score: squared errors summed over the classes, averaged over the items.

    Brier (1950), between 0 and 2. With two classes it is twice scikit-learn's default
    ``brier_score_loss``, which counts the error of class 1 only.
    """
    errors = np.square(probabilities - _one_hot(labels, probabilities.shape[1])).sum(axis=1)
    return divide(weights @ errors, weights.sum(axis=1))


MULTICLASS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auroc", "AUROC", compute_auroc, True, lambda classes: 0.5),
        Metric("average_precision", "Average precision", compute_average_precision, True),
        Metric("accuracy", "Accuracy", compute_accuracy, True),
        Metric(
            "balanced_accuracy",
            "Balanced accuracy",
            compute_balanced_accuracy,
            True,
            lambda classes: 1 / classes,
        ),
        Metric("f1", "Macro F1", compute_f1, True),
        Metric("ece", "Calibration error", compute_ece, False),
        Metric("brier", "Brier score", compute_brier, False),
    )
}


def evaluate(probabilities: Floats, labels: Integers, weights: Floats) -> Evaluation:
    """Compute every multiclass metric with its bootstrap interval.

    Args:
        probabilities: Predicted probabilities [N, C], C at least 2, rows summing to one.
        labels: Class of each item [N], 0 to C - 1.
        weights: Weights [B, N] of the replicates, as from ``item_weights``; B may be 0.

    Returns:
        Point estimates, intervals and replicates. With two classes both count as scored, since
        the AUROC of class 1 is that of class 0 as well.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels, weights = np.asarray(labels), np.asarray(weights, dtype=np.float64)
    _validate(probabilities, labels, weights)
    n, classes = probabilities.shape
    sizes = np.bincount(labels, minlength=classes)
    scored = int(((sizes > 0) & (sizes < n)).sum())
    return measure(MULTICLASS, probabilities, labels, weights, classes_scored=scored)


def _validate(probabilities: Floats, labels: Integers, weights: Floats) -> None:
    if probabilities.ndim != 2 or probabilities.shape[0] < 1 or probabilities.shape[1] < 2:
        raise ValueError(
            "probabilities must be [N, C] with N at least 1 and C at least 2, "
            f"got shape {probabilities.shape}"
        )
    n, classes = probabilities.shape
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    refuse_weights(weights, n)
    sums = probabilities.sum(axis=1)
    faults = {
        "not finite": ~np.isfinite(probabilities).all(axis=1),
        "negative": (probabilities < 0).any(axis=1),
        f"not summing to one within {_SUM_TOLERANCE:g}": np.abs(sums - 1) > _SUM_TOLERANCE,
    }
    refuse_rows(probabilities, faults)


def _one_hot(labels: Integers, classes: int) -> Booleans:
    matches: Booleans = labels[:, None] == np.arange(classes)
    return matches


def _one_vs_rest(probabilities: Floats, labels: Integers) -> tuple[Floats, Booleans]:
    targets = _one_hot(labels, probabilities.shape[1])
    # Of two classes the second says it all.
    first = 1 if probabilities.shape[1] == 2 else 0
    return probabilities[:, first:], targets[:, first:]


def _count(
    probabilities: Floats, labels: Integers, weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """Weigh the correct, the actual and the predicted items of each class, [B, C] each."""
    actual = _one_hot(labels, probabilities.shape[1])
    predicted = _one_hot(probabilities.argmax(axis=1), probabilities.shape[1])
    return weights @ (actual & predicted), weights @ actual, weights @ predicted


def _sort_positives(
    scores: Floats, targets: Booleans
) -> Iterator[tuple[int, tuple[Integers, Floats, Integers]]]:
    """Sort the positives of each column that has any, from the highest score down.

    Yields the column and the sorted items, their m distinct negated scores (ascending, as
    ``searchsorted`` needs), and m + 1 bounds: items bounds[g] to bounds[g + 1] share score g.
    """
    for column in np.flatnonzero(targets.any(axis=0)).tolist():
        items = np.flatnonzero(targets[:, column])
        items = items[np.argsort(-scores[items, column], kind="stable")]
        thresholds, starts = np.unique(-scores[items, column], return_index=True)
        yield column, (items, thresholds, np.append(starts, items.size))


def _accumulate(weights: Floats, items: Integers) -> Floats:
    """Sum the weights of the first 0, 1, ... K of K items, [B, K + 1]."""
    sums = np.zeros((len(weights), items.size + 1))
    weights.take(items, axis=1).cumsum(axis=1, out=sums[:, 1:])
    return sums


def _split_replicates(weights: Floats) -> Iterator[tuple[slice, Floats]]:
    step = max(1, _BLOCK // weights.shape[1])
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        yield rows, weights[rows]
