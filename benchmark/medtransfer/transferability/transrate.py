"""TransRate: mutual information of features and labels, by coding rates."""

from __future__ import annotations

import numpy as np

from medtransfer.transferability.arrays import Floats, Integers, centre, classes_of
from medtransfer.transferability.registry import register_score


@register_score(
    title="Coding rate of the features less that within classes",
    paper="Huang et al.: Frustratingly easy transferability estimation, ICML 2022",
)
def transrate(features: Floats, labels: Integers, *, distortion: float = 1e-4) -> float:
    """Compute R(Z) - sum_c n_c / N R(Z_c) of centred Z, R(Z) = 1/2 logdet(I + Z'Z / (N eps)).

    Args:
        features: (N, D).
        labels: (N,).
        distortion: eps.

    Raises:
        Undefined: With one class only, or constant features.
    """
    own, counts = classes_of(labels)
    centred = centre(features)
    within = sum(
        count / len(own) * _rate(centred[own == number], distortion)
        for number, count in enumerate(counts)
    )
    return float(_rate(centred, distortion) - within)


def _rate(vectors: Floats, distortion: float) -> float:
    """Compute the coding rate from the smaller of Z'Z and ZZ', which share the determinant."""
    items, width = vectors.shape
    gram = vectors @ vectors.T if items < width else vectors.T @ vectors
    gram /= items * distortion
    gram.flat[:: len(gram) + 1] += 1
    _, logdet = np.linalg.slogdet(gram)
    return float(logdet / 2)
