"""Contrastive robustness: features stay closer under jitter than to other images."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtransfer.transferability.registry import Undefined, register_score

Distance = Literal["cosine", "mse", "pearson"]
DISTANCES: tuple[Distance, ...] = ("cosine", "mse", "pearson")

Vectors = NDArray[np.floating]

_LARGE = 2**24


@register_score(
    title="Minus the contrastive loss of jittered images at one level of the frozen encoder",
    paper="Hidy, Bakos, Lukacs: Transferability for segmentation pre-training, 2024, "
    "arXiv 2410.18677",
    kinds=("multiclass", "multilabel", "segmentation"),
)
def robustness(
    views: tuple[Vectors, Vectors],
    *,
    distance: Distance = "cosine",
    margin: float = 0.5,
    permutations: int = 8,
    seed: int = 0,
) -> float:
    """Compute -mean_i max(0, d(z1_i, z2_i) - d(z1_i, z2_pi(i)) + margin) over derangements pi.

    No labels are used. The authors' score has the other sign.

    Args:
        views: Features of two jittered copies, two arrays (n, C).
        distance: ``cosine`` (1 - cosine), ``mse`` (mean squared error) or ``pearson``
            (1 - Pearson's correlation).
        margin: Margin of the hinge.
        permutations: Number of averaged derangements, at most n - 1.
        seed: Seed of the derangements.

    Raises:
        Undefined: With one image, or an undefined distance.
    """
    # Maps of a whole sweep take a gigabyte, so they stay in single precision.
    kind = np.float64 if views[0].size < _LARGE else views[0].dtype
    first, second = (_prepare(np.asarray(view, kind), distance) for view in views)
    if len(first) < 2:
        raise Undefined("one image has no other to be compared with")
    near = _distances(first, second, distance)
    losses = [
        np.maximum(0, near - _distances(first, second[other], distance) + margin).mean()
        for other in derangements(len(first), permutations, seed=seed)
    ]
    return float(-np.mean(losses))


def derangements(items: int, count: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Draw permutations without fixed points: rotations of one random cycle of all items."""
    generator = np.random.default_rng(seed)
    circle = generator.permutation(items)
    turns = generator.permutation(np.arange(1, items))[:count]
    permutations = []
    for turn in turns:
        other = np.empty(items, np.int64)
        other[circle] = np.roll(circle, -turn)
        permutations.append(other)
    return permutations


def _prepare(vectors: Vectors, distance: Distance) -> Vectors:
    """Scale vectors so that products are correlations; for ``mse`` return them unchanged."""
    if distance == "mse":
        return vectors
    centred = vectors - vectors.mean(axis=1, keepdims=True) if distance == "pearson" else vectors
    lengths = np.linalg.norm(centred, axis=1)
    if (lengths <= 1e-12 * np.abs(vectors).max(initial=0)).any():
        raise Undefined(f"the {distance} distance of an image's features is undefined")
    return np.asarray(centred / lengths[:, None])


def _distances(first: Vectors, second: Vectors, distance: Distance) -> Vectors:
    """Compute the distance of matching rows, (n,)."""
    if distance == "mse":
        return np.asarray(((first - second) ** 2).mean(axis=1))
    return np.asarray(1 - (first * second).sum(axis=1))
