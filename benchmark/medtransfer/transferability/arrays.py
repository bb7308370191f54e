"""Linear algebra shared by several scores. N items, D dimensions, C classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from medtransfer.transferability.registry import Undefined

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Spectrum:
    """Spectrum of a matrix F (N, D), from the smaller one of F'F and FF'.

    A full singular value decomposition of F would take many times as long.

    Attributes:
        matrix: F.
        squares: Its k squared singular values above zero, descending.
        vectors: Right singular vectors, (D, k); if N < D, left ones, (N, k).
    """

    matrix: Floats
    squares: Floats
    vectors: Floats

    @property
    def _wide(self) -> bool:
        items, width = self.matrix.shape
        return bool(items < width)

    def turn(self, targets: Floats) -> Floats:
        """Compute U'y, (k, C), of vectors y (N, C)."""
        if self._wide:
            return np.asarray(self.vectors.T @ targets)
        projected = self.vectors.T @ (self.matrix.T @ targets)
        return np.asarray(projected / np.sqrt(self.squares)[:, None])

    def scores(self, count: int) -> Floats:
        """Project F's rows on the first ``count`` right singular vectors, (N, count)."""
        if self._wide:
            return np.asarray(self.vectors[:, :count] * np.sqrt(self.squares[:count]))
        return np.asarray(self.matrix @ self.vectors[:, :count])


def decompose(matrix: Floats) -> Spectrum:
    """Compute the spectrum of a matrix (N, D); values within rounding count as zero."""
    items, width = matrix.shape
    gram = matrix @ matrix.T if items < width else matrix.T @ matrix
    values, vectors = linalg.eigh(gram, overwrite_a=True, check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    floor = max(items, width) * np.finfo(np.float64).eps * max(values[0], 0)
    rank = int((values > floor).sum())
    return Spectrum(matrix, values[:rank], vectors[:, :rank])


def spread(items: int, most: int) -> Integers:
    """Choose at most ``most`` of N items at equal distances, including the first and the last."""
    return np.linspace(0, items - 1, min(items, most)).round().astype(np.int64)


def centre(features: Floats) -> Floats:
    """Subtract the mean from features."""
    centred = features - features.mean(axis=0)
    if np.square(centred).sum() <= 1e-13 * np.square(features).sum():
        raise Undefined("all features are the same")
    return np.asarray(centred)


def principal_components(features: Floats, *, most: int | None = None, share: float = 1) -> Floats:
    """Project centred features on their principal axes.

    Args:
        features: (N, D).
        most: Largest number of axes.
        share: Share of the variance that the axes must hold.
    """
    spectrum = decompose(centre(features))
    held = np.cumsum(spectrum.squares) / spectrum.squares.sum()
    count = min(int(np.searchsorted(held, share - 1e-12)) + 1, len(held))
    return spectrum.scores(min(count, most or count))


def classes_of(
    labels: Integers, *, least: int = 1, among: bool = False
) -> tuple[Integers, Integers]:
    """Number the classes that occur from 0, and count their items.

    Args:
        labels: (N,).
        least: Smallest number of items of a class.
        among: Whether the items are a subset, for the message.

    Returns:
        Each item's class, (N,), and the counts, (C,).
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        where = f" among the {len(labels)} chosen images" if among else ""
        raise Undefined(f"there is only one class{where}")
    if counts.min() < least:
        raise Undefined(f"a class has fewer than {least} images")
    return classes.ravel(), counts
