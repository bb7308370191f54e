"""A frontal chest radiograph: normal, or with ill-defined opacities in the lungs."""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Mask,
    Phantom,
    cover,
    ellipse,
    frame,
    place_within,
    power_noise,
)
from medtransfer.phantoms.thorax import SCANNERS, Thorax, draw_thorax

LUNG, HEART = 1, 2


def draw_opacities(rng: np.random.Generator, thorax: Thorax) -> Field:
    """Return one or two ill-defined patches in the lungs, brightness (H, W) in [0, about .3]."""
    lungs = thorax.lungs * (1 - thorax.heart)
    size = lungs.shape[0]
    x, y = frame(size)
    ragged = power_noise(rng, size, exponent=3.0)
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
    thorax = draw_thorax(rng, size)
    opacity = np.zeros_like(thorax.lungs)
    if finding == "opacity":
        opacity = draw_opacities(rng, thorax)
    return Drawing(thorax.expose(opacity), (opacity > 0.05).astype(np.uint8), _find_regions(thorax))


def _find_regions(thorax: Thorax) -> Mask:
    """Return the lungs that neither heart nor mediastinum hides, and the whole heart (H, W)."""
    regions = np.where((thorax.lungs > 0.5) & (thorax.mediastinum <= 0.5), LUNG, 0)
    return np.where(thorax.heart > 0.5, HEART, regions).astype(np.uint8)


PHANTOM = Phantom(
    classes=("normal", "opacity"),
    channels=1,
    scanners=SCANNERS,
    prevalence={"standard": (0.5, 0.5), "other": (0.7, 0.3)},
    draw=draw,
    regions=("background", "lung", "heart"),
)
