"""PARC: rank correlation of distances of features with distances of labels."""

from __future__ import annotations

import numpy as np
from scipy import stats

from medtransfer.transferability.arrays import Floats, Integers, classes_of, spread
from medtransfer.transferability.registry import Undefined, register_score


@register_score(
    title="Rank correlation of distances between features and between labels",
    paper="Bolya, Mittapalli, Hoffman: Scalable diverse model selection, NeurIPS 2021",
)
def parc(features: Floats, labels: Integers, *, most: int = 1000) -> float:
    """Compute Spearman's correlation of 1 - corr(f) with 1 - corr(onehot y) over pairs of items.

    Args:
        features: (N, D).
        labels: (N,).
        most: Largest number of items, evenly spaced; pairs grow with its square (paper: 500).

    Raises:
        Undefined: With one class only, or an undefined correlation.
    """
    classes_of(labels)
    chosen = spread(len(labels), most)
    classes, _ = classes_of(labels[chosen], among=True)
    centred = features[chosen] - features[chosen].mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    if (lengths <= 1e-12 * np.abs(features[chosen]).max(axis=1)).any():
        raise Undefined("an image's features are all the same number")
    centred /= lengths[:, None]
    lower = np.tril_indices(len(chosen), -1)
    # Round, so that distances to two copies of an image tie.
    distance = (1 - (centred @ centred.T)[lower]).round(12)
    # 1 - corr of two one-hot vectors takes two values: 0 within a class, one more between two.
    differs = classes[lower[0]] != classes[lower[1]]
    if np.ptp(distance) <= 1e-12 or differs.all() or not differs.any():
        raise Undefined("all pairs are equally far apart")
    return float(stats.spearmanr(distance, differs).statistic)
