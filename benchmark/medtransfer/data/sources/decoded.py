"""What every loader returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoded"]


@dataclass(frozen=True)
class Decoded:
    """A split, decoded but not yet stored.

    Attributes:
        origin: What error messages call it.
        shape: (N, H, W) or (N, H, W, 3) of all images together.
        images: The images in order, as uint8 batches, so that memory stays bounded.
        labels: Integer labels of shape (N,).
        ids: N item ids, unique within the split; few-shot draws are made from them.
        label_names: Class names that came with the data, if any did.
    """

    origin: str
    shape: tuple[int, ...]
    images: Iterable[NDArray[np.uint8]]
    labels: NDArray[np.int64]
    ids: list[str]
    label_names: list[str] | None = None
