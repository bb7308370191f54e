"""Graded corruptions of images, from severity 1 (hardly visible) to 5 (severe).

The families and the order of magnitude of the strengths are those of MedMNIST-C (Di Salvo,
Doerrich and Ledig, 2024) and ImageNet-C (Hendrycks and Dietterich, ICLR 2019), whose lengths are
pixels of a 224 px image. Here a length is a share of the image's width, so that a severity means
about the same at 28 px and at 224 px, and the five strengths were evened out by eye.
Two kinds stay bound to pixels: the noise of a detector is independent in each, and JPEG
compresses blocks of eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import suggest
from medtransfer.core.seeds import seed_of
from medtransfer.corruptions import artefacts, blur, digital, noise, tone
from medtransfer.corruptions.geometry import Image
from medtransfer.specs.corruptions import COLOUR_KINDS

__all__ = ["CORRUPTIONS", "REVISION", "Corruption", "corrupt"]

REVISION = 1  # bumped whenever a corrupted image changes: it names the cache of these


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        apply: Takes an image (H, W, C) in [0, 1], a strength and a generator; returns the
            corrupted image, not yet clipped to [0, 1].
        strengths: The strength of each severity from 1 to 5; its unit depends on ``apply``.
    """

    apply: Callable[[Image, float, np.random.Generator], Image]
    strengths: tuple[float, float, float, float, float]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": Corruption(noise.add_gaussian, (0.02, 0.04, 0.065, 0.10, 0.15)),
    "shot-noise": Corruption(noise.add_shot, (500, 170, 75, 36, 18)),
    "speckle-noise": Corruption(noise.add_speckle, (0.06, 0.12, 0.19, 0.28, 0.40)),
    "impulse-noise": Corruption(noise.add_impulses, (0.005, 0.015, 0.03, 0.055, 0.09)),
    "low-dose": Corruption(noise.add_streaks, (0.02, 0.04, 0.065, 0.10, 0.15)),
    "ring-artefact": Corruption(noise.add_rings, (0.015, 0.03, 0.05, 0.075, 0.11)),
    "gaussian-blur": Corruption(blur.blur_gaussian, (0.006, 0.011, 0.017, 0.024, 0.032)),
    "defocus-blur": Corruption(blur.defocus, (0.012, 0.020, 0.030, 0.042, 0.056)),
    "motion-blur": Corruption(blur.blur_motion, (0.025, 0.05, 0.08, 0.12, 0.17)),
    "brightness-up": Corruption(tone.scale_brightness, (1.08, 1.17, 1.28, 1.41, 1.57)),
    "brightness-down": Corruption(tone.scale_brightness, (0.88, 0.76, 0.63, 0.50, 0.37)),
    "contrast-up": Corruption(tone.scale_contrast, (1.15, 1.35, 1.6, 1.9, 2.3)),
    "contrast-down": Corruption(tone.scale_contrast, (0.84, 0.69, 0.54, 0.40, 0.28)),
    "gamma-up": Corruption(tone.raise_to_power, (1.15, 1.35, 1.6, 1.95, 2.4)),
    "gamma-down": Corruption(tone.raise_to_power, (0.87, 0.74, 0.62, 0.50, 0.38)),
    "saturation-down": Corruption(tone.scale_saturation, (0.8, 0.6, 0.4, 0.2, 0.0)),
    "colour-cast": Corruption(tone.cast_colour, (0.05, 0.10, 0.16, 0.23, 0.32)),
    "stain-shift": Corruption(tone.shift_stains, (0.08, 0.16, 0.25, 0.35, 0.47)),
    "bias-field": Corruption(artefacts.add_bias_field, (0.25, 0.50, 0.75, 1.05, 1.4)),
    "ghosting": Corruption(artefacts.add_ghosts, (0.10, 0.18, 0.27, 0.38, 0.50)),
    "vignette": Corruption(artefacts.add_vignette, (0.18, 0.36, 0.55, 0.78, 1.05)),
    "dark-corners": Corruption(artefacts.darken_corners, (1.30, 1.20, 1.08, 0.96, 0.84)),
    "hair": Corruption(artefacts.draw_hair, (1, 3, 6, 10, 16)),
    "pixelation": Corruption(digital.pixelate, (0.008, 0.016, 0.027, 0.042, 0.062)),
    "jpeg": Corruption(digital.compress, (60, 35, 22, 14, 9)),
}


def corrupt(image: NDArray[np.uint8], *, kind: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """Corrupt one image.

    Random choices (a noise field, a direction, a place) depend on the kind and the seed alone, so
    the severities of an image differ in strength only.

    Args:
        image: uint8, (H, W) for grey or (H, W, 3) for colour.
        kind: One of ``CORRUPTIONS``.
        severity: 1 (hardly visible) to 5 (severe, but still recognisable).
        seed: Seed of the image; equal seeds give equal noise.

    Returns:
        The corrupted image, of the same shape.

    Raises:
        ValueError: For an unknown kind or severity, an array of another form, or a grey image
            where the kind needs colour.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption '{kind}'{suggest(kind, CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise ValueError(f"unknown severity {severity}; known: 1, 2, 3, 4, 5")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"an image is uint8, (H, W) or (H, W, 3), not {image.dtype}, {image.shape}"
        )
    if kind in COLOUR_KINDS and image.ndim == 2:
        raise ValueError(f"'{kind}' leaves grey images unchanged; use it for colour images")
    corruption = CORRUPTIONS[kind]
    rng = np.random.Generator(np.random.PCG64(seed_of("corruption", kind, seed)))
    values = image.reshape(*image.shape[:2], -1) / 255
    corrupted = corruption.apply(values, corruption.strengths[severity - 1], rng)
    pixels: NDArray[np.uint8] = np.rint(255 * corrupted.clip(0, 1)).astype(np.uint8)
    return pixels.reshape(image.shape)
