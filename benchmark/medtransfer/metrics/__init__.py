"""Metrics of predictions, and their bootstrap replicates and intervals."""

from medtransfer.metrics.bootstrap import interval, item_weights
from medtransfer.metrics.classification import MULTICLASS, Evaluation, Metric, evaluate

__all__ = ["MULTICLASS", "Evaluation", "Metric", "evaluate", "interval", "item_weights"]
