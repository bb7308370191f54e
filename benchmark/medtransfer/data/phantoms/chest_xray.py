"""A frontal chest radiograph: normal, or with ill-defined opacities in the lungs.

Bright is dense. Structures of a projection add up, so most are added rather than painted over.
"""

import numpy as np

from medtransfer.data.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    cover,
    ellipse,
    frame,
    place_within,
    power_noise,
)

__all__ = ["PHANTOM"]


def _segment(x: Field, y: Field, start: tuple[float, float], end: tuple[float, float]) -> Field:
    """Return the distance (H, W) to the straight line between two points."""
    ex, ey = end[0] - start[0], end[1] - start[1]
    dx, dy = x - start[0], y - start[1]
    along = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
    distance: Field = np.hypot(dx - along * ex, dy - along * ey)
    return distance


def _lungs(rng: np.random.Generator, x: Field, y: Field, middle: float) -> tuple[Field, Field]:
    """Return the coverage of both lungs and that of the abdomen below them."""
    lungs, abdomen = np.zeros_like(x), np.zeros_like(x)
    top, height = rng.uniform(-0.88, -0.72), rng.uniform(1.25, 1.45)
    for side in (-1, 1):
        centre = middle + side * rng.uniform(0.42, 0.47)
        width = rng.uniform(0.29, 0.35)
        # An apex narrower than the base: the ellipse is stretched sideways towards the bottom.
        taper = 0.82 + 0.22 * (y - top) / height
        shape = ellipse((x - centre) / taper, y, (0, top + 0.62 * height), (width, 0.64 * height))
        dome = top + height + rng.uniform(-0.1, 0.06) + 0.05 * side
        diaphragm = dome + 0.7 * (x - centre + 0.05 * side) ** 2 / width - y
        lungs = np.maximum(lungs, cover(np.maximum(shape, -diaphragm), edge=0.06))
        own_half = (x - middle) * side > 0
        abdomen = np.where(own_half, cover(diaphragm, edge=0.06), abdomen)
    return lungs, abdomen


def _ribs(rng: np.random.Generator, x: Field, y: Field, middle: float) -> Field:
    """Return the brightness of the ribs: posterior arches, and fainter anterior ones."""
    out = np.abs(x - middle)
    spacing, phase = rng.uniform(0.2, 0.26), rng.random(2)
    bend = rng.uniform(0.35, 0.6)
    ribs = np.zeros_like(x)
    for slope, weight, start in ((bend, 1.0, phase[0]), (-0.9 * bend, 0.5, phase[1])):
        curve = slope * (out - 0.15) * (1 if slope < 0 else 1.4 * out - 0.1)
        across = np.abs((y - curve) / spacing + start - np.round((y - curve) / spacing + start))
        ribs = ribs + weight * cover((across - 0.17) * spacing, edge=0.05)
    brightness: Field = ribs * cover(out - 0.84, edge=0.1) * cover(0.1 - out, edge=0.06)
    return brightness


def _opacities(rng: np.random.Generator, x: Field, y: Field, lungs: Field) -> Field:
    """Return one or two ill-defined patches in the lungs, brightness in [0, about .3]."""
    ragged = power_noise(rng, x.shape[0], exponent=3.0)
    patches = np.zeros_like(x)
    for _ in range(rng.integers(1, 3)):
        place = place_within(rng, lungs)
        radii = (rng.uniform(0.11, 0.18), rng.uniform(0.11, 0.22))
        distance = ellipse(x, y, place, radii, rng.uniform(0, np.pi)) + 0.05 * ragged
        patches = np.maximum(patches, rng.uniform(0.2, 0.34) * cover(distance, edge=0.12))
    opacities: Field = patches * lungs
    return opacities


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one chest radiograph with or without opacities, (size, size)."""
    x, y = frame(size)
    middle = rng.uniform(-0.06, 0.06)
    out = x - middle
    wall = rng.uniform(0.88, 0.98)
    shoulders = 0.5 * np.clip(-0.55 - y, 0, 1) ** 2
    body = cover(np.abs(out) - wall + 1.2 * shoulders, edge=0.05)
    lungs, abdomen = _lungs(rng, x, y, middle)

    heart_at = (middle + rng.uniform(0.1, 0.18), rng.uniform(0.22, 0.36))
    heart_size = (rng.uniform(0.3, 0.44), rng.uniform(0.22, 0.29))
    heart = cover(ellipse(x, y, heart_at, heart_size, rng.uniform(0.5, 0.9)), edge=0.06)
    flare = rng.uniform(0.1, 0.15) + 0.05 * np.cos(3 * y + rng.uniform(-1, 1))
    mediastinum = cover(np.abs(out) - flare, edge=0.08)
    hila = sum(
        cover(ellipse(x, y, (middle + s * 0.22, rng.uniform(-0.1, 0.08)), (0.09, 0.15)), edge=0.16)
        for s in (-1, 1)
    )
    vertebrae = 0.8 + 0.2 * np.cos(2 * np.pi * y / 0.17)
    spine = cover(np.abs(out) - 0.085, edge=0.03) * vertebrae
    collar = rng.uniform(-0.72, -0.62)
    clavicles = sum(
        cover(
            _segment(x, y, (middle + s * 0.1, collar + 0.1), (middle + s * 0.75, collar - 0.1))
            - 0.03,
            edge=0.04,
        )
        for s in (-1, 1)
    )
    bubble_at = (middle + rng.uniform(0.35, 0.5), rng.uniform(0.75, 0.9))
    bubble = abdomen * cover(ellipse(x, y, bubble_at, (0.13, 0.08)), edge=0.08)

    lung, soft = rng.uniform(0.14, 0.3), rng.uniform(0.48, 0.58)
    image = blend(np.full_like(x, soft), lung, lungs)
    image = blend(image, rng.uniform(0.6, 0.72), abdomen) - rng.uniform(0.0, 0.3) * bubble
    image = np.maximum(image, (soft + 0.08) * np.maximum(heart, mediastinum))
    image = image + rng.uniform(0.06, 0.14) * np.asarray(hila) * lungs
    image = image + 0.14 * spine + rng.uniform(0.07, 0.13) * _ribs(rng, x, y, middle)
    image = image + 0.12 * np.asarray(clavicles)
    markings = rng.uniform(0.02, 0.045) * power_noise(rng, size, exponent=2.2)
    image = image + markings + rng.uniform(-0.1, 0.1) * x + rng.uniform(-0.06, 0.06) * y
    gain, lift = rng.uniform(0.85, 1.15), rng.uniform(-0.06, 0.06)

    opacity = np.zeros_like(x)
    if finding == "opacity":
        opacity = _opacities(rng, x, y, lungs * (1 - heart))
    image = (image + opacity) * gain + lift
    return Drawing(np.clip(0.04 + body * image, 0, 1), (opacity > 0.05).astype(np.uint8))


PHANTOM = Phantom(
    classes=("normal", "opacity"),
    channels=1,
    scanners={
        "standard": Scanner(rotation=(-3, 3), shift=0.03, quantum=0.025, noise=0.01),
        "other": Scanner(
            rotation=(-8, 8),
            scale=(0.85, 1.0),
            shift=0.04,
            blur=0.012,
            collimation=0.08,
            vignette=0.15,
            quantum=0.04,
            noise=0.015,
            window=(0.05, 0.85),
            gamma=(0.65, 0.85),
        ),
    },
    prevalence={"standard": (0.5, 0.5), "other": (0.7, 0.3)},
    draw=draw,
)
