"""Duplicates: test images that the training split holds too, identical or slightly changed.

Exact copies have the same pixels. Near copies have the same *pattern*: the image on 24 x 24
overlapping cells, high-pass filtered, because all chest X-rays share their coarse structure. Two
patterns are compared by their correlation, allowing for a small shift (the tangents of Simard,
LeCun and Denker, NIPS 5, 1993).

The threshold is measured, on the splits of Kermany, NIH and Shenzhen chest X-rays, PneumoniaMNIST,
SARS-CoV-2 CT, Noor OCT, DRIVE, CIFAR-10 and on the phantoms (20 million pairs). Different images
reach 0.979, those of the fundus phantom 0.986. All above 0.988 are real: recoloured or mirrored
copies in CIFAR-10, the same patient's slices in the CT. Detection rate of changed copies:

                                          64 and 128 px    28 and 32 px
    JPEG of quality 90 and 70             100 %            100 %
    JPEG of quality 50                    100 %            94 to 99 %
    brightness +-10 %                     over 99 %        over 99 %
    mirrored; enlarged twice              100 %            100 %
    colour to grey                        not measured     100 %
    reduced to 0.44 of the size           100 %            0 to 1 %
    reduced to half and enlarged again    100 %            0 %
    shifted by 1 px                       94 to 100 %      4 to 32 %
    shifted by 1 px, across and along     91 to 100 %      0 %

So a count is a lower bound, above all for very small images. A 64-bit difference hash (Krawetz,
"Kind of like that", 2013) was tried as a sieve and dropped: 44 % of the pairs of Kermany's splits
are within 10 bits of each other, while a copy shifted by a pixel can be 23 bits away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

SAME = 0.988  # multiple correlation with a pattern and its tangents: a near copy
ALIKE = 0.8  # correlation with the pattern alone above which its tangents are computed
CELLS = 24
REACH = 2.0  # half-width of a cell's weights, in cells; overlap makes a shift linear
COARSE = 2.0  # deviation of the blur that is subtracted, in cells
FLAT = 0.5  # grey levels of contrast: below it a pattern is noise; real images have over 1
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
PIXELS = 2**23  # in a batch of images
ITEMS = 2048  # in a block of the comparison


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of a split's images.

    Attributes:
        digests: SHA-256 of the shape and the pixels of each of the N images.
        patterns: (N, 576), each of mean 0 and norm 1; all 0 where an image is flat.
    """

    digests: list[bytes]
    patterns: Floats

    @property
    def repeats(self) -> int:
        """Number of images that are exact copies of an earlier one in the same split."""
        return len(self.digests) - len(set(self.digests))


@dataclass(frozen=True)
class Duplicates:
    """Test images that the training split holds too.

    Attributes:
        exact: Number of test images with an exact copy.
        near: Number of further test images with a near copy, mirrored ones included.
        examples: Up to 3 pairs (training item, test item), exact ones first.
    """

    exact: int
    near: int
    examples: tuple[tuple[int, int], ...]


def fingerprint(images: Images) -> Fingerprints:
    """Fingerprint a split, uint8 (N, H, W) or (N, H, W, 3), in batches of bounded memory."""
    digests = []
    patterns = np.zeros((len(images), CELLS**2), dtype=np.float32)
    shape = repr(images.shape[1:]).encode()
    for part in _blocks(len(images), max(1, PIXELS // math.prod(images.shape[1:]))):
        batch = np.asarray(images[part])
        digests += [hashlib.sha256(shape + image.tobytes()).digest() for image in batch]
        patterns[part] = _patterns(batch)
    return Fingerprints(digests, patterns)


def compare(train: Fingerprints, test: Fingerprints) -> Duplicates:
    """Find the test images that the training split holds too.

    Exact copies have the same size and channels; near ones are compared by their brightness.
    """
    places = {digest: place for place, digest in reversed(list(enumerate(train.digests)))}
    originals = np.array([places.get(digest, -1) for digest in test.digests], dtype=np.int64)
    exact, others = np.flatnonzero(originals >= 0), np.flatnonzero(originals < 0)
    originals[others] = _match(train.patterns, test.patterns[others])
    near = others[originals[others] >= 0]
    pairs = tuple((int(originals[item]), int(item)) for item in (*exact[:3], *near[:3]))
    return Duplicates(len(exact), len(near), pairs[:3])


def _patterns(images: Images) -> Floats:
    """Compute the patterns of a batch, (n, 576)."""
    grey = (images @ GREY if images.ndim == 4 else images).astype(np.float32, copy=False)
    height, width = grey.shape[1:]
    cells = _cells(height) @ (grey @ _cells(width).T)
    blur = _blur()
    patterns = (cells - blur @ cells @ blur.T).reshape(-1, CELLS**2)
    patterns -= patterns.mean(axis=1, keepdims=True)
    patterns[patterns.std(axis=1) < FLAT] = 0
    return _unit(patterns)


def _cells(pixels: int) -> Floats:
    """Compute the weights of a side's pixels in each cell, (24, pixels): overlapping triangles."""
    width = pixels / CELLS
    centres = (np.arange(CELLS) + 0.5) * width
    distance = np.abs(np.arange(pixels) + 0.5 - centres[:, None])
    return _shares((1 - distance / max(REACH * width, 1)).clip(0))


def _blur() -> Floats:
    """Compute the weights of a side's cells in each blurred cell, (24, 24): a Gaussian."""
    distance = np.subtract.outer(np.arange(CELLS), np.arange(CELLS)) / COARSE
    return _shares(np.exp(-(distance**2) / 2))


def _shares(weights: NDArray[np.float64]) -> Floats:
    """Scale the weights to rows that sum to 1."""
    shares: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _unit(vectors: Floats) -> Floats:
    """Scale the vectors to norm 1; near-zero vectors stay near zero."""
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-3)
    return unit


def _tangents(patterns: Floats) -> list[Floats]:
    """Compute two directions, (n, 576) each, in which a small shift changes a pattern.

    To first order a shift adds a multiple of the gradients. The directions are orthogonal to the
    pattern and to each other.
    """
    basis = [patterns]
    for axis in (1, 2):
        gradient = cast(Floats, np.gradient(patterns.reshape(-1, CELLS, CELLS), axis=axis))
        direction = gradient.reshape(patterns.shape)
        direction -= direction.mean(axis=1, keepdims=True)
        for other in basis:
            direction -= (direction * other).sum(axis=1, keepdims=True) * other
        basis.append(_unit(direction))
    return basis[1:]


def _match(train: Floats, test: Floats) -> NDArray[np.int64]:
    """Match each test item to its closest training item, (M,); -1 if it is a copy of none."""
    matches = np.full(len(test), -1, dtype=np.int64)
    best = np.full(len(test), SAME, dtype=np.float32)
    mirrored = test.reshape(-1, CELLS, CELLS)[:, :, ::-1].reshape(test.shape)
    for block in _blocks(len(train), ITEMS):
        patterns = train[block]
        tangents = _tangents(patterns)
        for part in _blocks(len(test), ITEMS):
            for view in (test[part], mirrored[part]):
                scores, places = _closest(view, patterns, tangents)
                better = scores > best[part]
                best[part][better] = scores[better]
                matches[part][better] = block.start + places[better]
    return matches


def _closest(
    view: Floats, patterns: Floats, tangents: list[Floats]
) -> tuple[Floats, NDArray[np.int64]]:
    """Find each item's best multiple correlation with a pattern and its tangents, and its index.

    Tangents are used only where the pattern alone correlates; elsewhere the result is 0.
    """
    scores = np.zeros(len(view), dtype=np.float32)
    places = np.zeros(len(view), dtype=np.int64)
    plain = view @ patterns.T
    candidates = plain > ALIKE
    rows, columns = np.flatnonzero(candidates.any(axis=1)), np.flatnonzero(candidates.any(axis=0))
    if rows.size:
        corner = np.ix_(rows, columns)
        explained = plain[corner] ** 2
        for tangent in tangents:
            explained += (view[rows] @ tangent[columns].T) ** 2
        explained[~candidates[corner]] = 0
        scores[rows] = np.sqrt(explained.max(axis=1))
        places[rows] = columns[explained.argmax(axis=1)]
    return scores, places


def _blocks(total: int, size: int) -> Iterator[slice]:
    """Split ``total`` into slices of at most ``size``."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
