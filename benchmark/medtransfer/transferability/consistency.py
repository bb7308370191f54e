"""CC-FV: consistent features of a structure across images, and varied images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from medtransfer.transferability.arrays import Floats
from medtransfer.transferability.registry import Undefined, register_score

Pixels = Sequence[Mapping[int, Sequence[Floats]]]


@register_score(
    title="Class consistency with feature variety of a segmentation's pixels",
    paper="Yang et al.: Pick the best pre-trained model, MICCAI 2023 (in kind: of the frozen "
    "encoder's four levels, as no decoder is trained yet)",
    kinds=("segmentation",),
)
def ccfv(pixels: Pixels, *, least: int = 2) -> float:
    """Mean over levels of log(variety / inconsistency).

    Inconsistency: the mean over foreground classes and pairs of images of the 2-Wasserstein
    distance between the Gaussians of a class's pixels, in units of the pixels' root mean square
    length, because encoders differ in scale. Variety: one over the mean hyperspherical energy of
    the images' means over the given pixels. (The released code has no such unit, accumulates the
    distances, and uses the energy itself for the variety.)

    Args:
        pixels: For each level, by class (0 is background), one array (m, C) per image.
        least: Smallest number of pixels with which a class of an image counts.

    Raises:
        Undefined: When no class is in two images, or features do not differ.
    """
    return float(np.mean([_score_level(level, least) for level in pixels]))


def _score_level(level: Mapping[int, Sequence[Floats]], least: int) -> float:
    images = [np.concatenate(vectors) for vectors in zip(*level.values(), strict=True)]
    images = [vectors for vectors in images if len(vectors)]
    if not images or not (unit := float(np.sqrt(np.mean(np.concatenate(images) ** 2)))):
        raise Undefined("there are no pixels, or all their features are zero")
    distances = []
    for number, per_image in level.items():
        samples = [vectors / unit for vectors in per_image if len(vectors) >= least]
        if number and len(samples) > 1:
            pairs = combinations(samples, 2)
            distances.append(np.mean([wasserstein(first, second) for first, second in pairs]))
    if not distances:
        raise Undefined("no structure is in two images")
    inconsistency = float(np.mean(distances))
    if inconsistency == 0:
        raise Undefined("a structure's features are the same in all images")
    means = np.stack([vectors.mean(axis=0) for vectors in images])
    return float(np.log(feature_variety(means) / inconsistency))


def wasserstein(first: Floats, second: Floats) -> float:
    """Compute the 2-Wasserstein distance of the Gaussians of two samples (m, C) and (n, C).

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2. The last trace is the nuclear norm
    of the m x n matrix of products of the centred samples: no C x C root is needed.
    """
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    a, b = a / np.sqrt(len(first) - 1), b / np.sqrt(len(second) - 1)
    shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    squared = shift + np.square(a).sum() + np.square(b).sum() - 2 * cross
    return float(np.sqrt(max(squared, 0)))


def feature_variety(vectors: Floats, *, least: float = 1e-6) -> float:
    """Compute one over the mean of 1 / distance over pairs of vectors (n, C) on the unit sphere.

    Raises:
        Undefined: For fewer than two vectors, or one of length zero.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if len(vectors) < 2 or (lengths == 0).any():
        raise Undefined("fewer than two images have features")
    unit = vectors / lengths
    row, column = np.triu_indices(len(unit), 1)
    distances = np.linalg.norm(unit[row] - unit[column], axis=1)
    return float(1 / (1 / np.maximum(distances, least)).mean())
