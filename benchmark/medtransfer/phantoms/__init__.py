"""Phantoms: images with a known truth, drawn from a seed in seconds.

Nothing is downloaded and nothing is stored: a phantom, a split, a scanner and an index name an
image, and the same name gives the same image on every machine.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medtransfer.phantoms import (
    chest_findings,
    chest_xray,
    ct,
    dermoscopy,
    fundus,
    microscopy,
    natural,
    oct,
    ultrasound,
)
from medtransfer.phantoms.canvas import Drawing, Phantom, Scanner, acquire

__all__ = [
    "PHANTOMS",
    "SPLITS",
    "Drawing",
    "Images",
    "Phantom",
    "Scanner",
    "acquire",
    "generate",
]

PHANTOMS: dict[str, Phantom] = {
    "natural": natural.PHANTOM,
    "chest-xray": chest_xray.PHANTOM,
    "ct": ct.PHANTOM,
    "oct": oct.PHANTOM,
    "chest-findings": chest_findings.PHANTOM,
    "fundus": fundus.PHANTOM,
    "microscopy": microscopy.PHANTOM,
    "ultrasound": ultrasound.PHANTOM,
    "dermoscopy": dermoscopy.PHANTOM,
}
SPLITS = ("train", "validation", "test")
GOLDEN = (5**0.5 - 1) / 2
# One for each label; of the small primes those that keep a hundred images' labels uncorrelated.
PRIMES = np.array([2, 3, 5, 13, 19])


class Images(NamedTuple):
    """The images of one split.

    Attributes:
        images: uint8, (N, H, W) for grey or (N, H, W, 3) for colour.
        labels: int64, (N,), indices into the phantom's classes; or (N, L), 1 where the image has
            the class and 0 where not, for a phantom of several labels.
        ids: N names, unique over phantoms, splits and scanners.
        masks: uint8, (N, H, W), indices into the phantom's regions, or `None` where it has none.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: list[str]
    masks: NDArray[np.uint8] | None


def generate(
    phantom: str, *, split: str, items: int, scanner: str = "standard", size: int = 64
) -> Images:
    """Draw the first `items` images of a split; fewer items are a prefix of more.

    Args:
        phantom: one of `PHANTOMS`.
        split: one of `SPLITS`.
        items: number of images.
        scanner: `standard`, or `other` for images out of the domain.
        size: height and width in pixels.

    Raises:
        ValueError: the phantom, the split or the scanner is unknown.
    """
    kind = PHANTOMS[_known("phantom", phantom, PHANTOMS)]
    device = kind.scanners[_known("scanner", scanner, kind.scanners)]
    source = f"{phantom}/{_known('split', split, SPLITS)}/{scanner}"
    spread = _spread_labels if kind.multilabel else _spread_classes
    labels = spread(source, items, kind.prevalence[scanner])
    ids = [f"{source}/{index:05d}" for index in range(items)]
    shape = (items, size, size) if kind.channels == 1 else (items, size, size, kind.channels)
    images = np.empty(shape, dtype=np.uint8)
    masks = np.zeros((items, size, size), dtype=np.uint8)
    for index, (name, label) in enumerate(zip(ids, labels, strict=True)):
        rng = np.random.Generator(np.random.PCG64(_seed(name)))
        taken = acquire(kind.draw(rng, _finding(kind, label), size), rng, device)
        images[index] = np.rint(255 * taken.image)
        if taken.regions is not None:
            masks[index] = taken.regions
    return Images(images, labels, ids, masks if kind.regions else None)


def _seed(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest(), "big")


def _finding(kind: Phantom, label: NDArray[np.int64]) -> str | frozenset[str]:
    """Return what the phantom draws for a label: a class's name, or the names of its findings."""
    if kind.multilabel:
        return frozenset(kind.classes[index] for index in np.flatnonzero(label))
    return kind.classes[int(label)]


def _spread_classes(source: str, items: int, prevalence: tuple[float, ...]) -> NDArray[np.int64]:
    """Spread the classes evenly over the indices: labels (N,).

    The fractional parts of start + index * golden ratio fill [0, 1) more evenly than random
    numbers do, so every prefix has nearly the shares asked for.
    """
    start = _seed(source) / 2**256
    position = (start + GOLDEN * np.arange(items)) % 1.0
    return np.searchsorted(np.cumsum(prevalence)[:-1], position, side="right").astype(np.int64)


def _spread_labels(source: str, items: int, prevalence: tuple[float, ...]) -> NDArray[np.int64]:
    """Spread each label evenly over the indices: labels (N, L) of 0 and 1.

    As for classes, but with a step for each label. The square roots of primes are independent
    over the rational numbers, so the fractional parts fill the cube [0, 1)^L (Weyl, "Ueber die
    Gleichverteilung von Zahlen mod. Eins", 1916) and the labels do not depend on each other.
    """
    starts = np.array([_seed(f"{source}/{label}") / 2**256 for label in range(len(prevalence))])
    steps = np.sqrt(PRIMES[: len(prevalence)])
    position = (starts + steps * np.arange(items)[:, None]) % 1.0
    labels: NDArray[np.int64] = (position < np.array(prevalence)).astype(np.int64)
    return labels


def _known(what: str, name: str, names: Iterable[str]) -> str:
    """Return `name` if it is one of `names`, else say which name would have worked."""
    names = list(names)
    if name in names:
        return name
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
    raise ValueError(f"unknown {what} {name!r}; {hint}")
