"""Scores by which hyperparameters are selected, inside the budget and never on a test split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtransfer.metrics.classification import compute_auroc

__all__ = ["log_loss", "primary"]


def primary(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float | None:
    """The primary metric (AUROC) of probabilities (N, C), or ``None`` where it is undefined."""
    value = float(
        compute_auroc(probabilities.astype(np.float64), labels, np.ones((1, len(labels))))[0]
    )
    return None if np.isnan(value) else value


def log_loss(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the labels under probabilities (N, C)."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).tiny)).mean())
