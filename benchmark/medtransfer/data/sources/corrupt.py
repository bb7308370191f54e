"""Graded corruptions of a decoded split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.core.seeds import seed_of
from medtransfer.corruptions import corrupt
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import CorruptSource

_BATCH = 64


def corrupted(
    source: CorruptSource,
    *,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    ids: list[str],
    patients: list[str] | None,
    masks: NDArray[np.uint8] | None,
    origin: str,
) -> Decoded:
    """Corrupt some items of a split, by one kind and severity.

    The items are the same for every kind and severity. The noise of an item differs between
    severities in its strength alone, so severities are compared in pairs.

    Args:
        source: With one kind and one severity.
        images: (N, H, W) or (N, H, W, 3).
        labels: As in `Decoded`, kept.
        ids: Ids of the items, which seed the noise.
        patients: Kept.
        masks: Kept: no corruption moves a pixel.
        origin: Name of the split, for messages.

    Raises:
        InputError: For an unknown kind, or one that leaves these images unchanged.
    """
    [kind], [severity] = source.kinds or [], source.severities
    hashes = np.array([hashlib.sha256(f"corrupted/{name}".encode()).hexdigest() for name in ids])
    rows = np.sort(np.argsort(hashes, kind="stable")[: source.items])

    def stream() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(rows), _BATCH):
            batch = [
                corrupt(images[row], kind=kind, severity=severity, seed=seed_of(kind, ids[row]))
                for row in rows[start : start + _BATCH]
            ]
            yield np.stack(batch)

    try:  # before anything is written
        corrupt(images[0], kind=kind, severity=severity, seed=0)
    except ValueError as error:
        raise InputError(f"{origin}: kinds: {error}") from None
    return Decoded(
        origin=f"{origin} with {kind} {severity}",
        shape=(len(rows), *images.shape[1:]),
        images=stream(),
        labels=labels[rows],
        ids=[ids[row] for row in rows],
        patients=None if patients is None else [patients[row] for row in rows],
        masks=None if masks is None else [masks[rows]],
    )
