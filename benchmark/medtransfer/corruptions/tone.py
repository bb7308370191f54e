"""Brightness, contrast and colour."""

from __future__ import annotations

import numpy as np

from medtransfer.corruptions.geometry import Image

LUMA = np.array([0.299, 0.587, 0.114])  # the brightness of red, green and blue (ITU-R BT.601)

# Optical density in red, green and blue of haematoxylin, eosin and the rest, as rows (Ruifrok and
# Johnston, Anal. Quant. Cytol. Histol. 23, 2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def scale_brightness(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Multiply every value by ``strength``: exposure or gain."""
    return image * strength


def scale_contrast(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Scale every value's distance from the image's mean by ``strength``."""
    mean = float(image.mean())
    return mean + strength * (image - mean)


def raise_to_power(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Raise every value to the power of ``strength`` (above 1: darker): film or display curve."""
    return image**strength


def scale_saturation(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Scale every colour's distance from the grey of its brightness by ``strength``."""
    grey: Image = (image @ LUMA)[..., None]
    return grey + strength * (image - grey)


def cast_colour(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Shift the white balance: red by 1 +- ``strength``, blue by 1 -+ ``strength``."""
    return image * (1 + _sign(rng) * strength * np.array([1, 0, -1]))


def shift_stains(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Strengthen one stain and weaken the other by ``strength``, as of another laboratory.

    By Beer and Lambert, the optical density -log(value) is the sum of the stains' densities.
    """
    change = np.diag(1 + _sign(rng) * strength * np.array([1, -1, 0]))
    density = -np.log(np.maximum(image, 1 / 255))
    shifted: Image = np.exp(-density @ np.linalg.inv(STAINS) @ change @ STAINS)
    return shifted


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0
