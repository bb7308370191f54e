"""Linear algebra shared by several scores, for N items, D dimensions and C classes."""

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
    """Spectrum of a matrix F (N, D), from the smaller of F'F and FF'.

    A full singular value decomposition of F would take many times longer.

    Attributes:
        squares: The k non-zero squared singular values, descending.
        right: The right singular vectors, (D, k), where D is not above N; else ``None``.
        left: The left singular vectors, (N, k), where N is below D; else ``None``.
    """

    matrix: Floats
    squares: Floats
    right: Floats | None
    left: Floats | None

    def turn(self, targets: Floats) -> Floats:
        """Compute U'y for vectors y (N, C), (k, C)."""
        if self.left is not None:
            return np.asarray(self.left.T @ targets)
        assert self.right is not None
        projected = self.right.T @ (self.matrix.T @ targets)
        return np.asarray(projected / np.sqrt(self.squares)[:, None])

    def scores(self, count: int) -> Floats:
        """Project F's rows on the first ``count`` right singular vectors, (N, count)."""
        if self.left is not None:
            return np.asarray(self.left[:, :count] * np.sqrt(self.squares[:count]))
        assert self.right is not None
        return np.asarray(self.matrix @ self.right[:, :count])


def decompose(matrix: Floats) -> Spectrum:
    """Compute the spectrum of a matrix (N, D); values within rounding of zero count as zero."""
    items, width = matrix.shape
    wide = items < width
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    values, vectors = linalg.eigh(gram, overwrite_a=True, check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    floor = max(items, width) * np.finfo(np.float64).eps * max(values[0], 0)
    rank = int((values > floor).sum())
    vectors = vectors[:, :rank]
    return Spectrum(matrix, values[:rank], None if wide else vectors, vectors if wide else None)


def spread(items: int, most: int) -> Integers:
    """Choose at most ``most`` of N items, evenly spaced, with the first and the last."""
    return np.linspace(0, items - 1, min(items, most)).round().astype(np.int64)


def centre(features: Floats) -> Floats:
    """Subtract the mean of features.

    Raises:
        Undefined: For constant features, to within the rounding of single precision.
    """
    centred = features - features.mean(axis=0)
    if np.square(centred).sum() <= 1e-13 * np.square(features).sum():
        raise Undefined("all features are the same")
    return np.asarray(centred)


def principal_components(features: Floats, *, most: int | None = None, share: float = 1) -> Floats:
    """Project centred features on their principal axes.

    Args:
        features: (N, D).
        most: Largest number of axes.
        share: Keep the fewest axes with this share of the variance.

    Raises:
        Undefined: For features that are all the same.
    """
    spectrum = decompose(centre(features))
    held = np.cumsum(spectrum.squares) / spectrum.squares.sum()
    count = min(int(np.searchsorted(held, share - 1e-12)) + 1, len(held))
    return spectrum.scores(min(count, most or count))


def classes_of(
    labels: Integers, *, least: int = 1, among: bool = False
) -> tuple[Integers, Integers]:
    """Number the present classes from 0, and count their items.

    Args:
        labels: (N,).
        least: Smallest number of items of a class.
        among: Whether these are a subset of the items, for the message.

    Returns:
        The class of each item, (N,), and the counts, (C,).

    Raises:
        Undefined: With fewer than two classes, or a class that is too small.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        where = f"among the {len(labels)} images that are taken" if among else "there"
        raise Undefined(f"only one class is {where}")
    if counts.min() < least:
        raise Undefined(f"a class has fewer than {least} images")
    return classes.ravel(), counts
