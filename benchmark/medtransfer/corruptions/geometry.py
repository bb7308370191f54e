"""Image type, size and coordinates, shared by all corruptions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]  # (H, W, C) with C of 1 or 3, in [0, 1]


def width_of(image: Image) -> float:
    """Compute the side in pixels of a square of the image's area, the unit of all lengths."""
    return float(np.sqrt(image.shape[0] * image.shape[1]))


def coordinates(image: Image) -> tuple[Image, Image]:
    """Compute pixel centres, x (1, W, 1) and y (H, 1, 1), in half-widths from the centre."""
    half = width_of(image) / 2
    y, x = (((np.arange(n) + 0.5) - n / 2) / half for n in image.shape[:2])
    return x[None, :, None], y[:, None, None]
