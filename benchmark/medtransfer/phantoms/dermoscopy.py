"""A dermoscopic image of a pigmented lesion: naevus, melanoma or seborrhoeic keratosis.

A naevus is symmetric and brown with a regular network; a melanoma is asymmetric with many colours,
blotches and an abrupt, notched border; a keratosis is stuck on, with pale cysts and dark openings.
"""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    blob,
    cover,
    curves,
    discs,
    frame,
    power_noise,
)

PALE, TANNED = np.array([0.9, 0.74, 0.66]), np.array([0.78, 0.57, 0.46])
BROWN, BLACK = np.array([0.55, 0.35, 0.23]), np.array([0.2, 0.13, 0.11])
GREY_BLUE = np.array([0.45, 0.46, 0.54])
WAXY, CYST = np.array([0.6, 0.45, 0.33]), np.array([0.93, 0.86, 0.72])
HAIR = np.array([0.16, 0.12, 0.1])

# Depths of the border's waves by their number, width of its transition, how ragged it is.
BORDERS = {
    "naevus": ({2: 0.015, 3: 0.02}, (0.08, 0.3), 0.015),
    "melanoma": ({2: 0.04, 3: 0.06, 5: 0.025, 7: 0.015}, (0.04, 0.18), 0.05),
    "keratosis": ({2: 0.02, 4: 0.02, 6: 0.01}, (0.03, 0.09), 0.015),
}


def _network(x: Field, y: Field, *, turn: float, pitch: float, warp: Field) -> Field:
    """Return a honeycomb (H, W) of lines near 1 and meshes near 0; `pitch` is the mesh's width."""
    waves = [
        np.cos(2 * np.pi / pitch * (x * np.cos(angle) + y * np.sin(angle) + warp))
        for angle in turn + np.array([0, np.pi / 3, 2 * np.pi / 3])
    ]
    lines: Field = np.clip(0.5 - np.sum(waves, axis=0) / 2, 0, 1)
    return lines


def _hairs(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Return the coverage (H, W) of some curved hairs, or of none."""
    count = int(rng.integers(1, 7))
    along = x[0]
    starts, slopes, bends = rng.uniform(-1, 1, (3, count, 1))
    paths = 1.1 * starts + 0.7 * slopes * along + 0.4 * bends * along**2
    distance = curves(y, paths, np.full_like(paths, 0.012))
    across = rng.random() < 0.5
    hairy = rng.random() < 0.35
    return hairy * cover(distance.T if across else distance)


def _scatter(rng: np.random.Generator, centre: Field, *, count: int, near: float) -> Field:
    """Return places (count, 2) in a disc around a centre."""
    turns, away = rng.uniform(0, 2 * np.pi, count), near * np.sqrt(rng.random(count))
    places: Field = centre + away[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return places


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one lesion of the kind `finding` on skin, (size, size, 3)."""
    x, y = frame(size)
    skin = PALE + rng.random() * (TANNED - PALE) + rng.uniform(-0.03, 0.03, 3)
    clouds = power_noise(rng, size, exponent=2.5)
    ragged = power_noise(rng, size, exponent=3.0)
    hairs = _hairs(rng, x, y)[..., None]
    centre = rng.uniform(-0.12, 0.12, 2)
    extent, shape, turn = rng.uniform(0.38, 0.62), rng.uniform(0.75, 1.0), rng.uniform(0, np.pi)
    tone = rng.uniform(-0.1, 0.1) + rng.uniform(-0.03, 0.03, 3)
    meshes = {"turn": turn, "pitch": rng.uniform(0.15, 0.19)}

    waves, transition, raggedness = BORDERS[finding]
    lesion = blob(
        rng,
        x,
        y,
        centre=(centre[0], centre[1]),
        radii=(extent, extent * shape),
        angle=turn,
        waves=waves,
    )
    lesion = lesion + raggedness * ragged
    image = skin * (1 + 0.02 * clouds)[..., None]
    if finding == "naevus":
        lines = _network(x, y, **meshes, warp=0.02 * ragged)
        body = BROWN + tone + 0.08 * (0.5 - lines)[..., None] * rng.uniform(0.6, 1.6)
        body = body * (1 + 0.25 * np.clip(lesion / extent + 0.5, -0.5, 0.5))[..., None]
    elif finding == "melanoma":
        lines = _network(x, y, **meshes, warp=0.05 * ragged)
        body = BROWN + tone + 0.1 * (0.5 - lines)[..., None]
        for colour in (BLACK, GREY_BLUE, BLACK):
            place = _scatter(rng, centre, count=1, near=0.6 * extent)
            patch = discs(x, y, place, extent * rng.uniform(0.2, 0.45, 1)) + 0.06 * ragged
            body = blend(
                body,
                colour + 0.5 * tone,
                rng.uniform(0.3, 0.85) * cover(patch, edge=0.12)[..., None],
            )
    else:
        body = WAXY + tone + 0.04 * (clouds * (1 + np.abs(ragged)))[..., None]
        for colour, count in ((CYST, rng.integers(3, 10)), (BLACK, rng.integers(2, 7))):
            places = _scatter(rng, centre, count=int(count), near=0.8 * extent)
            dots = discs(x, y, places, rng.uniform(0.015, 0.05, int(count)))
            body = blend(body, colour, 0.7 * cover(dots, edge=0.04)[..., None])
    image = blend(image, body, cover(lesion, edge=rng.uniform(*transition))[..., None])
    image = blend(image, HAIR, 0.85 * hairs)
    return Drawing(np.clip(image, 0, 1), (lesion < 0).astype(np.uint8))


PHANTOM = Phantom(
    classes=("naevus", "melanoma", "keratosis"),
    channels=3,
    scanners={
        "standard": Scanner(rotation=(-5, 5), shift=0.03, vignette=0.15, noise=0.03),
        "other": Scanner(
            rotation=(-5, 5),
            scale=(1.1, 1.3),
            shift=0.05,
            blur=0.01,
            vignette=0.45,
            cast=(1.0, 0.88, 0.95),
            noise=0.035,
            window=(0.0, 0.95),
            gamma=(0.75, 1.0),
        ),
    },
    prevalence={"standard": (0.4, 0.3, 0.3), "other": (0.6, 0.2, 0.2)},
    draw=draw,
)
