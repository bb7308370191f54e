"""Metrics of multi-label predictions: several labels an item, each of which may be unknown.

Let N be the number of items, L of labels, B of weightings. A metric maps probabilities [N, L],
which need not sum to one, labels [N, L] (1, 0 or -1 for unknown) and weights [B, N] to values
[B]: the mean of the labels' own values, each over the items where that label is known. A label
whose own value is undefined is left out of the mean; NaN marks that all are.
"""

from __future__ import annotations

import numpy as np

from medtransfer.metrics.classification import score_auroc, score_average_precision, score_ece
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

_THRESHOLD = 0.5  # itself counts as positive, as in MedMNIST's evaluator


def compute_auroc(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the AUROC over the labels with a positive and a negative item."""
    return average_defined(score_auroc(probabilities, labels == 1, weights, known=labels >= 0))


def compute_average_precision(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the average precision over the labels with a positive item."""
    values = score_average_precision(probabilities, labels == 1, weights, known=labels >= 0)
    return average_defined(values)


def compute_accuracy(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the share of items on the right side of .5 over the labels.

    The accuracy that is published for ChestMNIST: MedMNIST v2 (Yang et al., Sci. Data 10, 2023).
    """
    right = _predict(probabilities) == (labels == 1)
    known = labels >= 0
    return average_defined(divide(weights @ (right & known), weights @ known))


def compute_balanced_accuracy(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the mean of sensitivity and specificity over the labels with both kinds of items.

    A label with one kind has only one of the two, which the same answer for all items makes 1.
    """
    predicted = _predict(probabilities)
    positives, negatives = labels == 1, labels == 0
    sensitivity = divide(weights @ (predicted & positives), weights @ positives)
    specificity = divide(weights @ (~predicted & negatives), weights @ negatives)
    return average_defined((sensitivity + specificity) / 2)


def compute_f1(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average F1 = 2 TP / (2 TP + FP + FN) over the labels with an actual or a predicted positive.

    This is scikit-learn's ``f1_score(average="macro", zero_division=np.nan)`` where all labels
    are known.
    """
    predicted = _predict(probabilities) & (labels >= 0)
    positives = labels == 1
    hits = weights @ (predicted & positives)
    return average_defined(divide(2 * hits, weights @ predicted + weights @ positives))


def compute_ece(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the expected calibration error of each label's probability in 15 equal-width bins.

    The binary error of Naeini et al. (2015), "Obtaining Well Calibrated Probabilities Using
    Bayesian Binning": share of positives against mean probability, not accuracy against
    confidence. Its mean over the labels is the classwise error of Kull et al. (2019), "Beyond
    Temperature Scaling".
    """
    return average_defined(score_ece(probabilities, labels == 1, weights, known=labels >= 0))


def compute_brier(probabilities: Floats, labels: Integers, weights: Floats) -> Floats:
    """Average the mean squared error of the probability over the labels; between 0 and 1.

    Each label's is scikit-learn's ``brier_score_loss``.
    """
    known = labels >= 0
    errors = np.square(probabilities - labels) * known
    return average_defined(divide(weights @ errors, weights @ known))


MULTILABEL: dict[str, Metric] = {
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
            lambda classes: 0.5,
        ),
        Metric("f1", "Macro F1", compute_f1, True),
        Metric("ece", "Calibration error", compute_ece, False),
        Metric("brier", "Brier score", compute_brier, False),
    )
}


def evaluate(probabilities: Floats, labels: Integers, weights: Floats) -> Evaluation:
    """Compute every multi-label metric with its bootstrap interval.

    Args:
        probabilities: Predicted probabilities [N, L] of each label.
        labels: 1, 0 or -1 (unknown), integers [N, L].
        weights: Weights [B, N] of the replicates, as from ``item_weights``; B may be 0.

    Returns:
        Point estimates, intervals and replicates; ``classes_scored`` counts the labels with a
        positive and a negative item.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels, weights = np.asarray(labels), np.asarray(weights, dtype=np.float64)
    _validate(probabilities, labels, weights)
    scored = int(((labels == 1).any(axis=0) & (labels == 0).any(axis=0)).sum())
    return measure(MULTILABEL, probabilities, labels, weights, classes_scored=scored)


def _validate(probabilities: Floats, labels: Integers, weights: Floats) -> None:
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(
            f"probabilities must be [N, L] with N and L at least 1, got shape {probabilities.shape}"
        )
    if labels.shape != probabilities.shape:
        raise ValueError(f"labels must have shape {probabilities.shape}, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.min() < -1 or labels.max() > 1:
        raise ValueError(
            f"labels must be 1, 0 or -1 (unknown), got {labels.min()} to {labels.max()}"
        )
    refuse_weights(weights, len(labels))
    faults = {
        "not finite": np.any(~np.isfinite(probabilities), axis=1),
        "not between 0 and 1": np.any((probabilities < 0) | (probabilities > 1), axis=1),
    }
    refuse_rows(probabilities, faults)


def _predict(probabilities: Floats) -> Booleans:
    predicted: Booleans = probabilities >= _THRESHOLD
    return predicted
