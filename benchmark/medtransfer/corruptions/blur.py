"""Blur by the transfer function of a lens or a movement.

Filtering in the spectrum allows a blur of less than a pixel, which weak severities of small images
need; a kernel of whole pixels could not express it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft, special

from medtransfer.corruptions.geometry import Image, width_of

MARGIN = 1 / 8  # widths; every kernel here vanishes beyond it, so opposite edges do not mix


def blur_gaussian(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Blur by a Gaussian point spread with a deviation of ``strength`` widths."""
    return _filter(image, lambda fy, fx: np.exp(-2 * (np.pi * strength) ** 2 * (fx * fx + fy * fy)))


def defocus(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Blur by a lens out of focus: points become discs with a radius of ``strength`` widths."""

    def transfer(fy: Image, fx: Image) -> Image:
        # The disc's transform is 2 J1(z) / z, which is 1 at z = 0.
        z = np.maximum(2 * np.pi * strength * np.hypot(fy, fx), 1e-9)
        disc: Image = 2 * special.j1(z) / z
        return disc

    return _filter(image, transfer)


def blur_motion(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Blur by a uniform movement over ``strength`` widths, in a random direction."""
    angle = np.pi * rng.random()
    cos, sin = np.cos(angle), np.sin(angle)
    return _filter(image, lambda fy, fx: np.sinc(strength * (fx * cos + fy * sin)))


def _filter(image: Image, transfer: Callable[[Image, Image], Image]) -> Image:
    """Filter an image, mirrored beyond its edges.

    Args:
        image: (H, W, C).
        transfer: Takes frequencies (fy, fx) in cycles a width.
    """
    width, (height, breadth) = width_of(image), image.shape[:2]
    margin = int(np.ceil(MARGIN * width))
    shape = [fft.next_fast_len(n + 2 * margin, real=True) for n in (height, breadth)]
    after = [full - n - margin for full, n in zip(shape, (height, breadth), strict=True)]
    padded = np.pad(image, [(margin, after[0]), (margin, after[1]), (0, 0)], mode="symmetric")
    factor = transfer(width * fft.fftfreq(shape[0])[:, None], width * fft.rfftfreq(shape[1]))
    spectrum = fft.rfft2(padded, axes=(0, 1)) * factor[..., None]
    filtered: Image = fft.irfft2(spectrum, s=shape, axes=(0, 1))
    return filtered[margin : margin + height, margin : margin + breadth]
