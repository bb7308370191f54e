"""A macular OCT section: normal, drusen under the pigment epithelium, or fluid in the retina.

Depth runs down the image. The retina's layers are a function of the relative depth between its
inner surface (0) and the pigment epithelium (1), both curves over the image's columns.
"""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    cover,
    ellipse,
    frame,
    power_noise,
)

# Relative depth and brightness: nerve fibres, ganglion cells, inner plexiform, inner nuclear, outer
# plexiform, outer nuclear, ellipsoid zone, pigment epithelium.
DEPTH = np.array(
    [0.0, 0.02, 0.1, 0.13, 0.28, 0.32, 0.4, 0.44, 0.5, 0.54, 0.82, 0.86, 0.9, 0.93, 1.0]
)
LAYER = np.array(
    [0.06, 0.7, 0.66, 0.5, 0.5, 0.28, 0.28, 0.5, 0.5, 0.22, 0.24, 0.62, 0.62, 0.4, 0.9]
)


def _bumps(rng: np.random.Generator, x: Field) -> Field:
    """Return the height (W,) of two to four drusen above the membrane they sit on."""
    height = np.zeros_like(x)
    for _ in range(rng.integers(2, 5)):
        place, width = rng.uniform(-0.9, 0.9), rng.uniform(0.13, 0.27)
        tall = rng.uniform(0.09, 0.19)
        height = np.maximum(
            height, tall * np.cos(np.pi / 2 * np.clip((x - place) / width, -1, 1)) ** 2
        )
    return height


def _pockets(rng: np.random.Generator, x: Field, y: Field, inner: Field, thickness: Field) -> Field:
    """Return the coverage (H, W) of two to four cystoid pockets in the retina's middle layers."""
    pockets = np.zeros_like(x)
    focus = rng.uniform(-0.6, 0.6)
    for _ in range(rng.integers(2, 5)):
        column = int(np.clip((focus + rng.uniform(-0.3, 0.3) + 1) / 2, 0, 0.999) * x.shape[1])
        depth = inner[column] + rng.uniform(0.35, 0.68) * thickness[column]
        radii = (rng.uniform(0.06, 0.14), rng.uniform(0.05, 0.1))
        distance = ellipse(x, y, (x[0, column], depth), radii)
        pockets = np.maximum(pockets, cover(distance, edge=0.04))
    return pockets


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one section of the retina with or without a finding, (size, size)."""
    x, y = frame(size)
    column = x[0]
    tilt, bow = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.08)
    wave, phase = rng.uniform(0, 0.02), rng.uniform(0, 2 * np.pi)
    outer = rng.uniform(0.05, 0.45) + tilt * column - bow * (column**2 - 0.3)
    outer = outer + wave * np.sin(5 * column + phase)
    pit, pit_width = rng.uniform(-0.35, 0.35), rng.uniform(0.18, 0.3)
    thickness = rng.uniform(0.58, 0.78) - rng.uniform(0.14, 0.3) * np.exp(
        -(((column - pit) / pit_width) ** 2) / 2
    )
    inner = outer - thickness
    choroid = rng.uniform(0.4, 0.55)
    vessels = power_noise(rng, size, exponent=2.0)
    texture = power_noise(rng, size, exponent=1.5)
    shadows = np.ones_like(column)
    for _ in range(rng.integers(0, 4)):
        place, width = rng.uniform(-1, 1), rng.uniform(0.02, 0.05)
        shadows = shadows - rng.uniform(0.2, 0.5) * np.exp(-(((column - place) / width) ** 2))
    shadows = np.maximum(shadows, 0.3)

    bumps = _bumps(rng, column) if finding == "drusen" else np.zeros_like(column)
    epithelium = outer - bumps
    depth = (y - inner) / (epithelium - inner)
    image = np.interp(depth, DEPTH, LAYER, left=0.05)
    below = y - outer
    fade = np.exp(-np.clip(below, 0, None) / 0.35)
    deep = choroid * fade * (1 + 0.2 * vessels)
    image = blend(image, deep, cover(0.07 - below))
    drusen = cover(epithelium - y + 0.05) * cover(y - outer)
    image = blend(image, 0.42, drusen * (bumps > 0.01))
    line = cover(np.abs(y - epithelium - 0.025) - 0.03)
    image = blend(image, 0.92, line)

    lesion = drusen * (bumps > 0.02)
    if finding == "fluid":
        lesion = _pockets(rng, x, y, inner, thickness) * cover(inner - y + 0.05) * cover(y - outer)
        image = blend(image, rng.uniform(0.07, 0.12), lesion)
    behind = cover(inner - y)  # shadows fall below the vessels of the surface
    image = image * (1 + 0.08 * texture) * blend(np.ones_like(x), shadows, behind)
    return Drawing(np.clip(image, 0, 1), (lesion > 0.5).astype(np.uint8))


PHANTOM = Phantom(
    classes=("normal", "drusen", "fluid"),
    channels=1,
    scanners={
        "standard": Scanner(speckle=0.25, noise=0.03, grain=0.4),
        "other": Scanner(
            rotation=(-8, 8),
            scale=(0.85, 1.0),
            shift=0.05,
            blur=0.01,
            vignette=0.3,
            speckle=0.35,
            noise=0.04,
            grain=0.6,
            window=(0.0, 0.85),
            gamma=(0.6, 0.85),
        ),
    },
    prevalence={"standard": (0.34, 0.33, 0.33), "other": (0.55, 0.3, 0.15)},
    draw=draw,
)
