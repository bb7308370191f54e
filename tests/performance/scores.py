"""Rows of `make performance` about transferability scores."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.transferability.logme import logme
from medtransfer.transferability.registry import registered_scores
from medtransfer.transferability.scoring import compute
from tests.performance.measure import Measured, Row, measure
from tests.performance.probes import draw_jobs, fit_usually

__all__ = ["ROWS"]

_SHARE = 0.05
_SLOW = "nleep"  # expectation maximisation, with a determinant for each component and pass


def score_beside_a_sweep(width: int, classes: int, items: int) -> Measured:
    """All scores of one encoder and task against seven linear probes that are fitted one by one.

    The probes are scikit-learn's, in two processes, as in the rows about probes; `nleep` is timed
    by itself. The scores that need passes of the encoder are not here: they have no features.
    """
    job = draw_jobs(width=width, classes=classes, items=items)["full", 0]
    splits = job.data.splits
    features = {name: np.array(split.images, np.float64) for name, split in splits.items()}
    clock = time.perf_counter()
    fit_usually(job, features)
    sweep = time.perf_counter() - clock
    taken = {}
    for name, score in registered_scores().items():
        if "labels" not in score.needs:
            continue
        inputs = _inputs(features["train"], job.labels)
        own = {need: inputs[need] for need in score.needs}
        clock = time.perf_counter()
        compute(score, own, score.options(job.protocol.scores))
        taken[name] = (time.perf_counter() - clock) / sweep
    listed = ", ".join(f"{name} {100 * share:.2g} %" for name, share in taken.items())
    together = sum(share for name, share in taken.items() if name != _SLOW)
    return Measured([together / _SHARE], (f"of the sweep's time: {listed}",))


def _inputs(features: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    logits = features[:, :100]
    theta = np.exp(logits - logits.max(axis=1, keepdims=True))
    theta /= theta.sum(axis=1, keepdims=True)
    return {"features": features, "labels": labels, "source_probabilities": theta}


def logme_beside_a_loop(width: int, classes: int, items: int) -> Measured:
    """LogME against a loop over classes that each take a singular value decomposition."""
    job = draw_jobs(width=width, classes=classes, items=items)["full", 0]
    features = np.array(job.data.splits["train"].images, np.float64)

    def one_class() -> None:
        left, singular, _ = np.linalg.svd(features, full_matrices=False)
        squares = singular[:, None] ** 2
        turned = (left.T @ (job.labels == 0)[:, None]) ** 2
        alpha = beta = 1.0
        for _ in range(100):
            gamma = (squares / (squares + alpha / beta)).sum()
            weight = (squares * turned / (alpha / beta + squares) ** 2).sum()
            error = (turned / (1 + squares * beta / alpha) ** 2).sum() + items / classes
            alpha, beta = gamma / (weight + 1e-5), (items - gamma) / (error - turned.sum() + 1e-5)

    return measure(partial(logme, features, job.labels), (one_class, classes))


ROWS = [
    Row(
        f"transferability scores but {_SLOW}, 10,000 x 2,048, 10 classes",
        "5 % of a linear probe's sweep, fit by fit",
        1,
        partial(score_beside_a_sweep, 2048, 10, 10_000),
        most=True,
    ),
    Row(
        "LogME, 10,000 x 2,048, 10 classes",
        "a loop over classes with a decomposition each",
        3,
        partial(logme_beside_a_loop, 2048, 10, 10_000),
    ),
]
