"""A white blood cell among red ones in a stained smear; the class is the kind of white cell."""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    blob,
    cover,
    discs,
    ellipse,
    frame,
    power_noise,
)

PLASMA, RED_CELL = np.array([0.94, 0.91, 0.92]), np.array([0.86, 0.64, 0.64])
CHROMATIN = np.array([0.42, 0.25, 0.56])
# Half of the cell's width, the cytoplasm's colour, the granules' colour.
CELLS = {
    "lymphocyte": ((0.34, 0.46), (0.74, 0.78, 0.88), None),
    "monocyte": ((0.42, 0.54), (0.76, 0.75, 0.85), None),
    "neutrophil": ((0.4, 0.52), (0.86, 0.79, 0.83), (0.78, 0.62, 0.72)),
    "eosinophil": ((0.4, 0.52), (0.88, 0.77, 0.78), (0.82, 0.53, 0.52)),
}


def _nucleus(rng: np.random.Generator, kind: str, u: Field, v: Field) -> Field:
    """Return the signed distance (H, W) to a nucleus; the cell's radius is one."""
    if kind == "lymphocyte":
        radii = (rng.uniform(0.7, 0.86), rng.uniform(0.66, 0.8))
        return blob(rng, u, v, centre=(0.1, 0), radii=radii, angle=0.0, waves={2: 0.04, 3: 0.03})
    if kind == "monocyte":
        radii = (rng.uniform(0.56, 0.7), rng.uniform(0.62, 0.78))
        whole = blob(rng, u, v, centre=(0, 0), radii=radii, angle=0.0, waves={3: 0.05})
        notch = ellipse(u, v, (rng.uniform(0.5, 0.75), 0), (0.4, rng.uniform(0.2, 0.3)))
        kidney: Field = np.maximum(whole, -notch)
        return kidney
    # Lobes along an arc, with thin bridges between them.
    lobes = int(rng.integers(3, 6) if kind == "neutrophil" else rng.integers(2, 4))
    arc = rng.uniform(0.4, 0.52)
    turns = np.linspace(-1, 1, lobes) * rng.uniform(1.2, 1.7) + rng.uniform(-0.1, 0.1, lobes)
    places = arc * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    widths = rng.uniform(0.85, 1.15, lobes) * (0.38 - 0.035 * lobes)
    bridge = np.abs(np.hypot(u, v) - arc) - 0.07
    between = np.abs(np.arctan2(v, u)) - np.abs(turns).max()
    lobed: Field = np.minimum(discs(u, v, places, widths), np.maximum(bridge, between))
    return lobed


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one white cell of the kind `finding`, (size, size, 3)."""
    x, y = frame(size)
    stain = rng.uniform(-0.1, 0.1, 3)
    depth = rng.uniform(0.75, 1.15)  # of the stain of nuclei
    uneven = power_noise(rng, size, exponent=3.0)[..., None]
    count = int(rng.integers(4, 9))
    turns, away = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.7, 1.2, count)
    places = away[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    red = discs(x, y, places, rng.uniform(0.28, 0.34, count))
    texture = power_noise(rng, size, exponent=1.0)
    speck = power_noise(rng, size, exponent=2.0)

    (low, high), cytoplasm, granules = CELLS[finding]
    extent, turn = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
    u0, v0 = rng.uniform(-0.12, 0.12, 2)
    u = ((x - u0) * np.cos(turn) + (y - v0) * np.sin(turn)) / extent
    v = ((y - v0) * np.cos(turn) - (x - u0) * np.sin(turn)) / extent
    cell = extent * blob(
        rng,
        u,
        v,
        centre=(0, 0),
        radii=(1, rng.uniform(0.88, 1)),
        angle=0.0,
        waves={2: 0.02, 3: 0.03},
    )
    nucleus = extent * _nucleus(rng, finding, u, v)

    image = np.broadcast_to(PLASMA + 0.5 * stain, (size, size, 3))
    pallor = 0.5 * cover(red + 0.2, edge=0.15)
    image = blend(image, RED_CELL + stain, (cover(red) * (1 - pallor))[..., None])
    body = np.array(cytoplasm) + stain + 0.02 * texture[..., None]
    if granules is not None:
        dots = cover(0.6 - speck, edge=0.8)[..., None]
        body = blend(body, np.array(granules) + stain, dots)
    image = blend(image, body, cover(cell, edge=0.04)[..., None])
    dense = 1 - depth * (1 - CHROMATIN + stain) + 0.05 * texture[..., None]
    image = blend(image, dense, cover(np.maximum(nucleus, cell), edge=0.04)[..., None])
    image = image * (1 + 0.02 * uneven)
    return Drawing(np.clip(image, 0, 1), (cell < 0).astype(np.uint8))


PHANTOM = Phantom(
    classes=tuple(CELLS),
    channels=3,
    scanners={
        "standard": Scanner(rotation=(-5, 5), shift=0.02, noise=0.04),
        "other": Scanner(
            rotation=(-5, 5),
            scale=(0.82, 0.95),
            shift=0.04,
            blur=0.018,
            vignette=0.2,
            cast=(0.92, 0.8, 1.0),
            noise=0.04,
            window=(0.05, 0.95),
            gamma=(1.0, 1.4),
        ),
    },
    prevalence={"standard": (0.25, 0.25, 0.25, 0.25), "other": (0.3, 0.1, 0.5, 0.1)},
    draw=draw,
)
