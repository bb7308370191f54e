"""Loss, probabilities and selection scores of each kind of task.

Selection happens inside the budget and never on a test split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medtransfer.metrics import MULTICLASS, MULTILABEL

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """Functions of a kind of classification, for N items and C classes or labels.

    Attributes:
        loss: Mean loss of logits (N, C) for labels.
        probabilities: Of logits (..., N, C).
        log_loss: Mean negative log-likelihood of labels under probabilities (N, C).
        auroc: The primary metric, as in `medtransfer.metrics`.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    log_loss: Callable[[Floats, Integers], float]
    auroc: Callable[[NDArray[np.float64], Integers, NDArray[np.float64]], NDArray[np.float64]]

    def primary(self, probabilities: Floats, labels: Integers) -> float | None:
        """The AUROC of probabilities (N, C), or ``None`` where it is undefined."""
        once = np.ones((1, len(labels)))
        value = float(self.auroc(probabilities.astype(np.float64), labels, once)[0])
        return None if np.isnan(value) else value


def _binary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Average the binary cross-entropy over the known labels, (N, L) of 1, 0 or -1."""
    known = labels >= 0
    losses = functional.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0).to(logits.dtype), reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def _log_loss(probabilities: Floats, labels: Integers) -> float:
    chosen = probabilities[np.arange(len(labels)), labels]
    return _mean_surprise(chosen)


def _binary_log_loss(probabilities: Floats, labels: Integers) -> float:
    chosen = np.where(labels == 1, probabilities, 1 - probabilities)
    return _mean_surprise(chosen[labels >= 0])


def _mean_surprise(chosen: Floats) -> float:
    smallest = np.finfo(np.float64).tiny
    return float(-np.log(np.maximum(chosen.astype(np.float64), smallest)).mean())


def _softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=-1)


TARGETS: dict[str, Targets] = {
    "multiclass": Targets(
        functional.cross_entropy, _softmax, _log_loss, MULTICLASS["auroc"].function
    ),
    "multilabel": Targets(
        _binary_loss, torch.sigmoid, _binary_log_loss, MULTILABEL["auroc"].function
    ),
}
