"""Linear algebra that several scores share. N items, D dimensions, C classes."""

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
        squares: Its k squared singular values that are not zero, descending.
        right: The right singular vectors, (D, k), where D is not above N; else ``None``.
        left: The left singular vectors, (N, k), where N is below D; else ``None``.
    """

    matrix: Floats
    squares: Floats
    right: Floats | None
    left: Floats | None

    def turn(self, targets: Floats) -> Floats:
        """U'y of vectors y (N, C), (k, C)."""
        if self.left is not None:
            return np.asarray(self.left.T @ targets)
        assert self.right is not None
        projected = self.right.T @ (self.matrix.T @ targets)
        return np.asarray(projected / np.sqrt(self.squares)[:, None])

    def scores(self, count: int) -> Floats:
        """F's rows in the first ``count`` right singular vectors, (N, count)."""
        if self.left is not None:
            return np.asarray(self.left[:, :count] * np.sqrt(self.squares[:count]))
        assert self.right is not None
        return np.asarray(self.matrix @ self.right[:, :count])


def decompose(matrix: Floats) -> Spectrum:
    """The spectrum of a matrix (N, D); what is zero to within rounding counts as zero."""
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
    """At most so many of N items: of more every so many-th, the first and the last among them."""
    return np.linspace(0, items - 1, min(items, most)).round().astype(np.int64)


def centre(features: Floats) -> Floats:
    """Features less their mean.

    Raises:
        Undefined: For features that are all the same, to within the rounding of single precision.
    """
    centred = features - features.mean(axis=0)
    if np.square(centred).sum() <= 1e-13 * np.square(features).sum():
        raise Undefined("all features are the same")
    return np.asarray(centred)


def principal_components(features: Floats, *, most: int | None = None, share: float = 1) -> Floats:
    """Centred features in their principal axes.

    Args:
        features: (N, D).
        most: At most so many axes.
        share: As few axes as hold this share of the variance.

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
    """The classes that are there, numbered from 0, and how many items each has.

    Args:
        labels: (N,).
        least: Items that a class needs.
        among: Whether these are some of the items, for the message.

    Returns:
        Each item's class, (N,), and the counts, (C,).

    Raises:
        Undefined: With fewer than two classes, or one that is too small.
    """
    _, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        where = f"among the {len(labels)} images that are taken" if among else "there"
        raise Undefined(f"only one class is {where}")
    if counts.min() < least:
        raise Undefined(f"a class has fewer than {least} images")
    return own.ravel(), counts
