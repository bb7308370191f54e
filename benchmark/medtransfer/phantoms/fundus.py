"""A colour photograph of the eye's fundus: normal, diabetic retinopathy, or glaucoma.

A right eye is drawn, with the disc on the right of the fovea; half of the eyes are its mirror
image.
"""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    cover,
    curves,
    discs,
    ellipse,
    frame,
    power_noise,
)

FAIR, DARK = np.array([0.88, 0.5, 0.3]), np.array([0.62, 0.3, 0.16])
RIM, CUP = np.array([0.96, 0.68, 0.4]), np.array([1.0, 0.93, 0.72])
BLOOD, EXUDATE = np.array([0.4, 0.09, 0.06]), np.array([0.98, 0.86, 0.45])


def _vessels(rng: np.random.Generator, disc: tuple[float, float], size: int) -> Field:
    """Return the coverage (H, W) of the arcades, their branches and the nasal vessels.

    The arcades are parabolas that open around the fovea (Foracchia, Grisan and Ruggeri, "Detection
    of optic disc in retinal images by means of a geometrical model of vessel structure", 2004).
    """
    x, y = frame(size)
    along = x[0]

    def wiggle(count: int) -> Field:
        pitch, phase = rng.uniform(5, 11, (2, count, 1))
        wave: Field = 0.025 * np.sin(pitch * along + 7 * phase)
        return wave

    # Above and below the disc, an artery and a vein each: x as a function of y.
    down = along - disc[1]
    half = np.array([[-1], [-1], [1], [1]])
    bend = rng.uniform(0.75, 1.5, (4, 1))
    paths = disc[0] + 0.02 * half - bend * down**2 + wiggle(4)
    thick = rng.uniform(0.016, 0.03, (4, 1)) - 0.012 * np.abs(down)
    arcades = curves(x.T, paths, np.where(half * down > 0, thick, -1)).T

    # Towards the nose from the disc, and away from the arcades at both sides: y as a function of x.
    count = 10
    nasal = np.arange(count)[:, None] < 4
    drop = rng.uniform(0.25, 0.7, (count, 1)) * np.where(np.arange(count) % 2, -1, 1)[:, None]
    start = np.where(nasal, disc[0], rng.uniform(-0.5, 0.3, (count, 1)))
    height = np.sqrt((disc[0] - start) / 1.1) * np.sign(drop)
    away = np.where(nasal, along - start, start - along)
    inwards = np.where(rng.random((count, 1)) < 0.5, -0.6, 1.0)  # towards the fovea or away
    paths = disc[1] + height + np.where(nasal, drop, inwards * drop) * away + wiggle(count)
    thick = 0.016 - 0.014 * away
    branches = curves(y, paths, np.where((away > 0) & (thick > 0.004), thick, -1))
    return cover(np.minimum(arcades, branches))


def _spots(
    rng: np.random.Generator, x: Field, y: Field, *, count: int, reach: float, radius: float
) -> Field:
    """Return the coverage (H, W) of spots of up to a radius, within reach of a common centre."""
    turn, away = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    centre = away * np.array([np.cos(turn), np.sin(turn)])
    places = centre + reach * rng.uniform(-1, 1, (count, 2))
    return cover(discs(x, y, places, radius * rng.uniform(0.6, 1, count)), edge=0.03)


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one fundus with or without a finding, (size, size, 3)."""
    x, y = frame(size)
    left_eye = rng.random() < 0.5
    fovea = (rng.uniform(-0.36, -0.22), rng.uniform(-0.06, 0.06))
    disc = (fovea[0] + rng.uniform(0.7, 0.8), fovea[1] + rng.uniform(-0.1, 0.02))
    radius, stretch = rng.uniform(0.16, 0.2), rng.uniform(1.0, 1.2)
    cup = rng.uniform(0.25, 0.5)  # ratio of the cup to the disc
    pigment = rng.uniform(0, 1)
    choroid = power_noise(rng, size, exponent=2.5)
    away = np.hypot(x - fovea[0], y - fovea[1])
    macula = np.exp(-((away / rng.uniform(0.13, 0.2)) ** 2) / 2)
    vessels = _vessels(rng, disc, size) * (1 - macula)  # the fovea has none
    light = rng.uniform(0.85, 1.05) + rng.uniform(-0.12, 0.12, 2) @ np.stack([x, y], axis=1)
    rim = RIM * rng.uniform(0.88, 1.04)
    pallor = rim + rng.uniform(0.55, 1.0) * (CUP - rim)
    aperture = cover(np.hypot(x, y) - rng.uniform(0.92, 0.98))

    if finding == "glaucoma":
        cup = rng.uniform(0.62, 0.88)
    whole = cover(ellipse(x, y, disc, (radius, radius * stretch)), edge=0.05)
    inner = cover(ellipse(x, y, disc, (cup * radius, cup * radius * stretch)), edge=0.05)
    image = (FAIR + pigment * (DARK - FAIR)) * (1 + 0.05 * choroid)[..., None]
    image = image * (1 - macula[..., None] * np.array([0.25, 0.4, 0.4]))
    image = blend(image, rim, whole[..., None])
    image = blend(image, pallor, inner[..., None])
    image = image * (1 - vessels[..., None] * np.array([0.3, 0.55, 0.6]))
    extent = inner if finding == "glaucoma" else np.zeros_like(x)
    if finding == "diabetic":
        blood = np.maximum(
            _spots(rng, x, y, count=int(rng.integers(3, 9)), reach=0.5, radius=0.03),
            _spots(rng, x, y, count=int(rng.integers(2, 6)), reach=0.45, radius=0.06),
        )
        fat = _spots(rng, x, y, count=int(rng.integers(1, 8)), reach=0.2, radius=0.04)
        image = blend(image, BLOOD, rng.uniform(0.5, 0.9) * blood[..., None])
        image = blend(image, EXUDATE, rng.uniform(0.5, 0.9) * fat[..., None])
        extent = np.maximum(blood, fat)
    image = np.clip(image * (light * aperture)[..., None], 0, 1)
    # A spot may be smaller than a pixel.
    mask = (extent * aperture > 0.25).astype(np.uint8)
    return Drawing(image[:, ::-1], mask[:, ::-1]) if left_eye else Drawing(image, mask)


PHANTOM = Phantom(
    classes=("normal", "diabetic", "glaucoma"),
    channels=3,
    scanners={
        "standard": Scanner(rotation=(-6, 6), shift=0.02, vignette=0.2, noise=0.025),
        "other": Scanner(
            rotation=(-14, 14),
            scale=(1.05, 1.25),
            shift=0.05,
            blur=0.008,
            vignette=0.5,
            cast=(0.9, 1.0, 0.75),
            noise=0.035,
            window=(0.0, 0.85),
            gamma=(0.8, 1.0),
        ),
    },
    prevalence={"standard": (0.34, 0.33, 0.33), "other": (0.55, 0.25, 0.2)},
    draw=draw,
)
