"""Result of every loader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Decoded:
    """A split, decoded but not yet stored.

    Attributes:
        origin: Name in error messages.
        shape: Shape of all images together, (N, H, W) or (N, H, W, 3).
        images: The images in order, as uint8 batches, so that memory stays bounded.
        labels: int64, (N,) class ids; or (N, L) with 1, 0 and -1 (unknown) for each of L labels;
            or (N, 0) where the truth is in the masks.
        ids: N item ids, unique within the split; few-shot draws are made from them.
        label_names: Names of the class ids, of the L labels or of the masks' ids, where known.
        patients: Patient of each item, where known.
        masks: Class ids of the pixels, as uint8 batches (n, H, W) in the order of the images.
    """

    origin: str
    shape: tuple[int, ...]
    images: Iterable[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    ids: list[str]
    label_names: list[str] | None = None
    patients: list[str] | None = None
    masks: Iterable[NDArray[np.uint8]] | None = None
