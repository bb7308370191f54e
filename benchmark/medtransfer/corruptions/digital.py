"""Losses of image storage: JPEG and pixelation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PillowImage

from medtransfer.corruptions.geometry import Image, width_of


def compress(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Store the image as JPEG of quality ``strength`` (0 to 100)."""
    stored = io.BytesIO()
    pixels = np.rint(255 * image).astype(np.uint8)
    PillowImage.fromarray(pixels.squeeze()).save(stored, "JPEG", quality=int(strength))
    return np.asarray(PillowImage.open(stored)).reshape(image.shape) / 255


def pixelate(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Average over blocks of about one pixel and ``strength`` widths on each side.

    Blocks are larger than one pixel even at the weakest strength, so small images change too.
    """
    block = 1 + strength * width_of(image)
    for axis in (0, 1):
        length = image.shape[axis]
        blocks = max(1, round(length / block))
        edges = np.arange(blocks + 1) * length // blocks
        sizes = np.diff(edges)
        sums = np.add.reduceat(image, edges[:-1], axis)
        means = sums / sizes.reshape(-1, *(1 for _ in range(2 - axis)))
        image = np.repeat(means, sizes, axis)
    return image
