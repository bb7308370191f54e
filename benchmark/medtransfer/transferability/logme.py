"""LogME: evidence of a linear model of the labels."""

from __future__ import annotations

import numpy as np

from medtransfer.transferability.arrays import Floats, Integers, classes_of, decompose
from medtransfer.transferability.registry import Undefined, register_score


@register_score(
    title="Log of the maximum evidence of a Bayesian linear model, one class against the rest",
    paper="You, Liu, Wang, Long: LogME, ICML 2021",
)
def logme(
    features: Floats, labels: Integers, *, tolerance: float = 1e-9, iterations: int = 1000
) -> float:
    """Compute the log evidence per item at its maximising precisions, averaged over classes.

    The fixed point of You et al., section 4.2, for all classes at once. Where the rank k of the
    features is below D, the D - k directions without data contribute ln(alpha) each to the
    determinant, which the released code leaves out.

    Args:
        features: (N, D).
        labels: (N,).
        tolerance: Relative change of alpha / beta at which the iteration ends.
        iterations: Largest number of iterations.

    Raises:
        Undefined: With one class only, or zero features.
    """
    classes, counts = classes_of(labels)
    items, width = features.shape
    spectrum = decompose(features)
    squares = spectrum.squares[:, None]
    if not len(squares):
        raise Undefined("all features are zero")
    targets = np.eye(len(counts))[classes]
    turned = spectrum.turn(targets) ** 2  # x^2, (k, C)
    total = targets.sum(axis=0)  # |y|^2: of ones and zeros their sum
    outside = np.maximum(total - turned.sum(axis=0), 0)
    alpha, beta = np.ones(len(counts)), np.ones(len(counts))
    moved = np.ones(len(counts), bool)
    for _ in range(iterations):
        ratio = alpha / beta
        gamma = (squares / (squares + ratio)).sum(axis=0)
        weight = (squares * turned / (ratio + squares) ** 2).sum(axis=0)
        error = (turned / (1 + squares / ratio) ** 2).sum(axis=0) + outside
        new_alpha = gamma / (weight + 1e-5)
        new_beta = (items - gamma) / (error + 1e-5)
        alpha, beta = np.where(moved, new_alpha, alpha), np.where(moved, new_beta, beta)
        moved &= np.abs(alpha / beta - ratio) > tolerance * ratio
        if not moved.any():
            break
    ratio = alpha / beta
    weight = (squares * turned / (ratio + squares) ** 2).sum(axis=0)
    error = (turned / (1 + squares / ratio) ** 2).sum(axis=0) + outside
    logdet = np.log(alpha + beta * squares).sum(axis=0)
    logdet = logdet + (width - len(squares)) * np.log(alpha)
    evidence = (
        width / 2 * np.log(alpha)
        + items / 2 * np.log(beta)
        - logdet / 2
        - beta / 2 * error
        - alpha / 2 * weight
        - items / 2 * np.log(2 * np.pi)
    )
    return float(evidence.mean() / items)
