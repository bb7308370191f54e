"""Evaluation of one test split, for records and for their verification. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.data.split import Split
from medtransfer.metrics import Evaluation, evaluate, item_weights
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import TaskCard

Floats = NDArray[np.float64]


def draw_weights(task: str, name: str, split: Split, replicates: int) -> Floats:
    """Weights (B, N) of a test split's bootstrap replicates.

    All corruptions of a split share weights, so that their mean has replicates. Where patients are
    known, whole patients are resampled.
    """
    family = SplitName.parse(name).family
    return item_weights(task, family, len(split), replicates=replicates, groups=split.patients)


def evaluate_split(
    card: TaskCard, split: Split, predictions: NDArray[Any], weights: Floats
) -> Evaluation:
    """Compare predictions with the labels or masks, in the form in which they are stored.

    Args:
        card: The task's.
        split: The test split.
        predictions: Probabilities (N, C) or class ids (N, H, W).
        weights: Of the replicates, (B, N).

    Raises:
        ValueError: If the predictions do not fit the split.
    """
    truth = split.labels if split.masks is None else split.masks
    return evaluate(predictions, truth, weights, kind=card.kind, classes=len(card.classes))
