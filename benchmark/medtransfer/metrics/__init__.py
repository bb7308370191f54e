"""Metrics of predictions, and their bootstrap replicates and intervals."""

import numpy as np

from medtransfer.metrics import classification, multilabel, segmentation
from medtransfer.metrics.bootstrap import interval, item_weights
from medtransfer.metrics.classification import MULTICLASS
from medtransfer.metrics.evaluation import Evaluation, Floats, Integers, Metric, Numbers
from medtransfer.metrics.multilabel import MULTILABEL
from medtransfer.metrics.segmentation import SEGMENTATION

__all__ = [
    "METRICS",
    "MULTICLASS",
    "MULTILABEL",
    "SEGMENTATION",
    "Evaluation",
    "Metric",
    "evaluate",
    "interval",
    "item_weights",
]

# By kind of task.
METRICS: dict[str, dict[str, Metric]] = {
    "multiclass": MULTICLASS,
    "multilabel": MULTILABEL,
    "segmentation": SEGMENTATION,
}
_CLASSIFICATION = {"multiclass": classification.evaluate, "multilabel": multilabel.evaluate}


def evaluate(
    probabilities: Numbers,
    labels: Integers,
    weights: Floats,
    *,
    kind: str = "multiclass",
    classes: int | None = None,
) -> Evaluation:
    """Compute every metric of a kind of task with its bootstrap interval.

    Args:
        probabilities: Predicted probabilities [N, C], of one class or of each label; or with
            ``segmentation`` predicted class ids [N, H, W].
        labels: Class of each item [N]; or with ``multilabel`` 1, 0 or -1 (unknown), [N, C]; or
            with ``segmentation`` true class ids [N, H, W].
        weights: Weights [B, N] of the replicates, as from ``item_weights``; B may be 0.
        kind: ``multiclass``, ``multilabel`` or ``segmentation``, as on the task card.
        classes: Number of classes C, background included. Only ``segmentation`` needs it; the
            probabilities of the other kinds tell theirs.

    Returns:
        Point estimates, intervals and replicates, with the keys of ``METRICS[kind]``.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value, or the kind is unknown.
    """
    if kind not in METRICS:
        raise ValueError(f"kind must be one of {', '.join(METRICS)}, got '{kind}'")
    if kind != "segmentation":
        return _CLASSIFICATION[kind](np.asarray(probabilities, dtype=float), labels, weights)
    if classes is None:
        raise ValueError("segmentation needs the number of classes, background included")
    return segmentation.evaluate(probabilities, labels, weights, classes=classes)
