"""Metrics of predictions, and their bootstrap replicates and intervals."""

from medtransfer.metrics import classification, multilabel
from medtransfer.metrics.bootstrap import interval, item_weights
from medtransfer.metrics.classification import MULTICLASS
from medtransfer.metrics.evaluation import Evaluation, Floats, Integers, Metric
from medtransfer.metrics.multilabel import MULTILABEL

__all__ = [
    "METRICS",
    "MULTICLASS",
    "MULTILABEL",
    "Evaluation",
    "Metric",
    "evaluate",
    "interval",
    "item_weights",
]

# By kind of task.
METRICS: dict[str, dict[str, Metric]] = {"multiclass": MULTICLASS, "multilabel": MULTILABEL}
_EVALUATE = {"multiclass": classification.evaluate, "multilabel": multilabel.evaluate}


def evaluate(
    probabilities: Floats, labels: Integers, weights: Floats, *, kind: str = "multiclass"
) -> Evaluation:
    """Compute every metric of a kind of task with its bootstrap interval.

    Args:
        probabilities: Predicted probabilities [N, C], of one class or of each label.
        labels: Class of each item [N]; or with ``multilabel`` 1, 0 or -1 (unknown), [N, C].
        weights: Weights [B, N] of the replicates, as from ``item_weights``; B may be 0.
        kind: ``multiclass`` or ``multilabel``, as on the task card.

    Returns:
        Point estimates, intervals and replicates, with the keys of ``METRICS[kind]``.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value, or the kind is unknown.
    """
    if kind not in _EVALUATE:
        raise ValueError(f"kind must be one of {', '.join(_EVALUATE)}, got '{kind}'")
    return _EVALUATE[kind](probabilities, labels, weights)
