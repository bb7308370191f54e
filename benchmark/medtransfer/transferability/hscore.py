"""H-score: share of the features' variance between classes."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from medtransfer.transferability.arrays import Floats, Integers, centre, classes_of, decompose
from medtransfer.transferability.registry import register_score


@register_score(
    title="Variance between classes, in units of the features' own covariance",
    paper="Bao et al.: An information-theoretic approach to transferability, ICIP 2019; shrinkage "
    "after Ibrahim, Ponomareva, Mazumder: Newer is not always better, ECML PKDD 2022",
)
def hscore(features: Floats, labels: Integers) -> float:
    """Compute tr(pinv(cov f) cov(E[f|y])), at most C - 1.

    With fewer items than dimensions it is tr(S^-1 (1 - a) cov(E[f|y])) with S the covariance and a
    the shrinkage of Ledoit and Wolf (2004), as in Ibrahim et al.: the pseudo-inverse would give
    C - 1 for any labels. With few more items than dimensions it nearly does so, too:
    encoders of very different widths are hardly comparable on a small task.

    Args:
        features: (N, D).
        labels: (N,).

    Raises:
        Undefined: With one class only, or constant features.
    """
    classes, counts = classes_of(labels)
    items, width = features.shape
    centred = centre(features)
    onehot = np.eye(len(counts))[classes]
    means = onehot.T @ centred / counts[:, None]
    weighted = means * np.sqrt(counts / items)[:, None]  # cov(E[f|y]) = weighted' weighted
    if items < width:
        # Imported late: takes a second.
        from sklearn.covariance import ledoit_wolf

        covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
        factor = linalg.cho_factor(covariance, overwrite_a=True, check_finite=False)
        trace = (weighted * linalg.cho_solve(factor, weighted.T).T).sum()
        return float((1 - shrinkage) * trace)
    spectrum = decompose(centred)
    assert spectrum.right is not None
    turned = weighted @ spectrum.right
    return float((turned**2 / (spectrum.squares / items)).sum())
