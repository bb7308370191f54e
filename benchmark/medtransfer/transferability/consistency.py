"""CC-FV: consistency of a structure's features over images, and variety of the images."""

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
    """Compute the mean over levels of log(variety / inconsistency).

    Inconsistency: the mean over foreground classes and pairs of images of the 2-Wasserstein
    distance between the Gaussians of a class's pixels, in units of the pixels' root mean squared
    length, as encoders differ in scale. Variety: one over the mean hyperspherical energy of the
    images' means over the given pixels. (The released code has no such unit, adds up distances
    along the way, and takes the energy itself for the variety.)

    Args:
        pixels: For each level, by class, background being 0, one array (m, C) an image.
        least: Pixels of a class that an image needs to count.

    Raises:
        Undefined: When no class is in two images, or all features are equal.
    """
    return float(np.mean([_of_level(level, least) for level in pixels]))


def _of_level(level: Mapping[int, Sequence[Floats]], least: int) -> float:
    images = [np.concatenate(vectors) for vectors in zip(*level.values(), strict=True)]
    images = [vectors for vectors in images if len(vectors)]
    if not images or not (unit := float(np.sqrt(np.mean(np.concatenate(images) ** 2)))):
        raise Undefined("there are no pixels, or all their features are zero")
    distances = []
    for number, samples in level.items():
        enough = [vectors / unit for vectors in samples if len(vectors) >= least]
        if number and len(enough) > 1:
            pairs = combinations(enough, 2)
            distances.append(np.mean([wasserstein(one, other) for one, other in pairs]))
    if not distances:
        raise Undefined("no structure is in two images")
    inconsistency = float(np.mean(distances))
    if inconsistency == 0:
        raise Undefined("a structure's features are the same in all images")
    means = np.stack([vectors.mean(axis=0) for vectors in images])
    return float(np.log(feature_variety(means) / inconsistency))


def wasserstein(first: Floats, second: Floats) -> float:
    """Compute the 2-Wasserstein distance of Gaussians fitted to samples (m, C) and (n, C).

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2, the last being the nuclear norm of
    the m x n matrix of products of the centred samples: no C x C root is needed.
    """
    left, right = first - first.mean(axis=0), second - second.mean(axis=0)
    left, right = left / np.sqrt(len(first) - 1), right / np.sqrt(len(second) - 1)
    shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    cross = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    squared = shift + np.square(left).sum() + np.square(right).sum() - 2 * cross
    return float(np.sqrt(max(squared, 0)))


def feature_variety(vectors: Floats, *, least: float = 1e-6) -> float:
    """Compute the harmonic mean distance of pairs of vectors (n, C) on the unit sphere.

    Raises:
        Undefined: For fewer than two vectors, or one of length zero.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if len(vectors) < 2 or (lengths == 0).any():
        raise Undefined("fewer than two images that have features")
    unit = vectors / lengths
    row, column = np.triu_indices(len(unit), 1)
    apart = np.linalg.norm(unit[row] - unit[column], axis=1)
    return float(1 / (1 / np.maximum(apart, least)).mean())
