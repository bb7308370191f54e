"""Images to corrupt, and measures of what a corruption did."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medtransfer.corruptions import CORRUPTIONS, corrupt
from medtransfer.phantoms import PHANTOMS, generate
from medtransfer.specs.corruptions import COLOUR_KINDS

Pixels = NDArray[np.uint8]
SEVERITIES = (1, 2, 3, 4, 5)


@lru_cache
def varied(kind: str, size: int = 64) -> tuple[Pixels, ...]:
    """Phantoms of every sort that the kind may meet, and tiles on a gradient."""
    names = [n for n, phantom in PHANTOMS.items() if phantom.channels == 3 or grey(kind)]
    images = [image for n in names for image in generate(n, split="test", items=2, size=size)[0]]
    ramp = np.linspace(20, 235, size)[None, :, None] + np.linspace(-20, 20, size)[:, None, None]
    tiles = np.indices((size, size)).sum(0) // (size // 7) % 2 * 30
    tinted = (ramp + tiles[..., None]).clip(0, 255) * np.array([1.0, 0.7, 0.9])
    return (*images, (tinted.mean(2) if grey(kind) else tinted).astype(np.uint8))


def grey(kind: str) -> bool:
    """Whether the kind takes grey images."""
    return kind not in COLOUR_KINDS


def chest(size: int = 64) -> Pixels:
    """A grey phantom."""
    return generate("chest-xray", split="test", items=1, size=size).images[0]


def flat(value: int, *, kind: str = "jpeg", shape: tuple[int, int] = (64, 64)) -> Pixels:
    """A constant image, in colour only where the kind asks for it."""
    return np.full(shape if grey(kind) else (*shape, 3), value, np.uint8)


def point(size: int = 63) -> Pixels:
    """One white pixel on black."""
    image = flat(0, shape=(size, size))
    image[size // 2, size // 2] = 255
    return image


def residual(image: Pixels, *, kind: str, severity: int, seed: int = 0) -> NDArray[np.float64]:
    """What the corruption added, in shares of white."""
    return (corrupt(image, kind=kind, severity=severity, seed=seed).astype(float) - image) / 255


def strength(kind: str, severity: int) -> float:
    return CORRUPTIONS[kind].strengths[severity - 1]
