"""Noise: a field of mean 0 and deviation 1, scaled by the strength."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from medtransfer.corruptions.geometry import Image, coordinates, width_of

SPECKLE_GRAIN = 1 / 200  # deviation of the point spread in widths: one pixel or less up to 224 px
VIEWS = 48  # directions in which the dose of a CT differs
CUTOFF = 30.0  # cycles a width at which a reconstruction kernel has fallen to 1 / e
RINGS = 20  # detector elements in a half-width of a CT


def add_gaussian(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add electronic noise of deviation ``strength``, independent in every pixel and channel."""
    return image + strength * rng.standard_normal(image.shape)


def add_shot(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add quantum noise; white is ``strength`` quanta per pixel.

    The normal limit of the Poisson distribution is used, because one field then serves every
    strength.
    """
    return image + np.sqrt(image / strength) * rng.standard_normal(image.shape)


def add_speckle(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add the multiplicative noise of coherent waves, of relative deviation ``strength``.

    Its grain is a share of the width, because it stems from the point spread, not the pixels.
    """
    field = rng.standard_normal(image.shape[:2])
    field = ndimage.gaussian_filter(field, SPECKLE_GRAIN * width_of(image), mode="wrap")
    return image * (1 + strength * _standard(field))


def add_impulses(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Turn a share of ``strength`` of the pixels black or white; stronger ones add to weaker."""
    struck, colour = rng.random((2, *image.shape[:2], 1))
    corrupted: Image = np.where(struck < strength, np.rint(colour), image)
    return corrupted


def add_streaks(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add the noise of a low-dose CT, of deviation ``strength``: grain and streaks.

    By the projection-slice theorem, the noise of the view at an angle lies on the line at that
    angle of the spectrum, and the filter of the back-projection, |f| by amplitude, leaves it
    proportional to the root of |f| (Riederer, Pelc and Chesler, Phys. Med. Biol. 23, 1978). Views
    that few quanta reach are noisier, which shows as streaks across them.
    """
    height, breadth = image.shape[:2]
    fy, fx = width_of(image) * fft.fftfreq(height)[:, None], width_of(image) * fft.rfftfreq(breadth)
    frequency = np.hypot(fy, fx)
    view = (np.arctan2(fy, fx) / np.pi % 1 * VIEWS).astype(int) % VIEWS
    deviation = np.exp(rng.standard_normal(VIEWS))[view]
    spectrum = fft.rfft2(rng.standard_normal((height, breadth))) * deviation
    spectrum *= np.sqrt(frequency) * np.exp(-((frequency / CUTOFF) ** 2))
    field = fft.irfft2(spectrum, s=(height, breadth))
    return image + strength * _standard(field)


def add_rings(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add rings of deviation ``strength`` around the centre: detector elements of wrong gain."""
    radius = RINGS * np.hypot(*coordinates(image))
    elements = np.arange(int(radius.max()) + 2)
    field: Image = np.interp(radius, elements, rng.standard_normal(len(elements)))
    return image + strength * field


def _standard(field: Image) -> Image:
    """Scale a field (H, W) to a deviation of 1, as (H, W, 1)."""
    return field[..., None] / float(field.std())
