"""GBC: overlap of classes as Gaussians."""

from __future__ import annotations

import numpy as np

from medtransfer.transferability.arrays import Floats, Integers, classes_of, principal_components
from medtransfer.transferability.registry import register_score


@register_score(
    title="Overlap of the classes as Gaussians, by the Bhattacharyya coefficient",
    paper="Pandy et al.: Transferability estimation using Bhattacharyya class separability, "
    "CVPR 2022",
)
def gbc(features: Floats, labels: Integers, *, most: int = 64, floor: float = 1e-4) -> float:
    """Compute minus the sum over ordered pairs of classes of exp(-Bhattacharyya distance).

    Gaussians with diagonal covariances, of the first principal components, as in the paper.

    Args:
        features: (N, D).
        labels: (N,).
        most: Number of principal components.
        floor: Smallest variance.

    Raises:
        Undefined: With one class only, a class of one image, or constant features.
    """
    classes, counts = classes_of(labels, least=2)
    reduced = principal_components(features, most=most)
    means = np.stack([reduced[classes == c].mean(axis=0) for c in range(len(counts))])
    variances = np.stack([reduced[classes == c].var(axis=0) for c in range(len(counts))])
    variances = np.maximum(variances, floor)
    middle = (variances[:, None] + variances) / 2
    logs = np.log(variances)
    distance = ((means[:, None] - means) ** 2 / middle).sum(axis=2) / 8
    distance += (np.log(middle) - (logs[:, None] + logs) / 2).sum(axis=2) / 2
    overlap = np.exp(-distance)
    return float(-(overlap.sum() - np.trace(overlap)))
