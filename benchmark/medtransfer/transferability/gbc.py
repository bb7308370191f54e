"""GBC: overlap of the classes as Gaussians."""

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
    """Minus the sum over ordered pairs of classes of exp(-Bhattacharyya distance).

    The Gaussians have diagonal covariances in the first principal components, as in the paper.

    Args:
        features: (N, D).
        labels: (N,).
        most: Largest number of principal components.
        floor: Smallest variance.

    Raises:
        Undefined: With one class only, a class of one image, or features that are all the same.
    """
    classes, counts = classes_of(labels, least=2)
    reduced = principal_components(features, most=most)
    groups = [reduced[classes == number] for number in range(len(counts))]
    means = np.stack([group.mean(axis=0) for group in groups])
    variances = np.maximum(np.stack([group.var(axis=0) for group in groups]), floor)
    middle = (variances[:, None] + variances) / 2
    logs = np.log(variances)
    distance = ((means[:, None] - means) ** 2 / middle).sum(axis=2) / 8
    distance += (np.log(middle) - (logs[:, None] + logs) / 2).sum(axis=2) / 2
    overlap = np.exp(-distance)
    return float(-(overlap.sum() - np.trace(overlap)))
