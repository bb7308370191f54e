"""A breast ultrasound image with a lesion: benign or malignant.

Depth runs down the image: skin, fat, glandular tissue, muscle. A benign lesion is oval, wider than
tall and smooth; a malignant one is irregular with a spiculated margin, often taller than wide and
often with a shadow behind it (Stavros et al., "Solid breast nodules: use of sonography to
distinguish between benign and malignant lesions", 1995).
"""

import numpy as np
from scipy import ndimage

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    blob,
    cover,
    ellipse,
    frame,
    power_noise,
)

GEL, SKIN, FAT, GLAND, MUSCLE, FASCIA = 0.1, 0.8, 0.36, 0.58, 0.34, 0.75
BEHIND = (-0.22, 0.0, 0.14)  # what a lesion adds to the brightness of what lies behind it
CHANCES = {"benign": (0.1, 0.5, 0.4), "malignant": (0.55, 0.35, 0.1)}


def _speckle(rng: np.random.Generator, size: int) -> Field:
    """Return the logarithm of fully developed speckle (H, W), scaled to mean 0 and deviation 1.

    The echo is a complex Gaussian field, wider across the beam than along it; its logarithm is what
    a scanner with log compression adds to the brightness of the tissue, down to the noise floor.
    """
    spread = (0, 0.007 * size, 0.013 * size)
    real, imaginary = ndimage.gaussian_filter(rng.standard_normal((2, size, size)), spread)
    echo = np.log(np.hypot(real, imaginary) + 0.5 * real.std())
    scaled: Field = (echo - echo.mean()) / echo.std()
    return scaled


def _tissue(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Return the brightness (H, W) of a breast without a lesion."""
    size = x.shape[0]
    warp = power_noise(rng, size, exponent=3.5)
    ground = 0.06 * warp + rng.uniform(-0.08, 0.08) * x
    fat_ends, gland_ends = rng.uniform(-0.68, -0.4), rng.uniform(0.5, 0.72)
    image = np.full_like(x, FAT)
    for _ in range(rng.integers(2, 5)):  # lobules of fat are dark like lesions
        place = (rng.uniform(-1, 1), rng.uniform(-0.8, fat_ends))
        lobule = ellipse(x, y, place, (rng.uniform(0.15, 0.35), rng.uniform(0.06, 0.12)))
        image = blend(image, FAT - 0.12, cover(lobule, edge=0.05))
    septa = np.abs(np.roll(warp, size // 3, axis=1) + 1.5 * y)
    image = image + 0.2 * cover(septa - 0.05, edge=0.15)
    gland = rng.uniform(GLAND - 0.08, GLAND + 0.06) + 0.05 * power_noise(rng, size, exponent=2.0)
    image = blend(image, gland, cover(fat_ends + ground - y, edge=0.12))
    fibres = MUSCLE + 0.08 * np.sin(rng.uniform(22, 34) * (y - ground))
    image = blend(image, fibres, cover(gland_ends + ground - y, edge=0.05))
    image = blend(image, FASCIA, cover(np.abs(y - gland_ends - ground) - 0.02, edge=0.05))
    image = blend(image, SKIN, cover(y + 0.86 - 0.3 * ground, edge=0.05))
    brightness: Field = blend(image, GEL, cover(y + 0.95))
    return brightness


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one image of a breast with a lesion, (size, size)."""
    x, y = frame(size)
    image = _tissue(rng, x, y)
    speckle = _speckle(rng, size)
    fade = rng.uniform(0.0, 0.12)
    malignant = finding == "malignant"

    centre = (rng.uniform(-0.35, 0.35), rng.uniform(-0.15, 0.2))
    extent = rng.uniform(0.26, 0.4)
    shape = rng.uniform(0.65, 1.2) if malignant else rng.uniform(0.5, 0.95)
    waves = {2: 0.02, 3: 0.025}
    if malignant:
        waves |= {count: rng.uniform(0.0, 0.04) for count in (4, 5, 7, 9)}
    lesion = blob(
        rng,
        x,
        y,
        centre=centre,
        radii=(extent / shape**0.5, extent * shape**0.5),
        angle=rng.uniform(-0.25, 0.25),
        waves=waves,
    )
    inside = rng.uniform(0.14, 0.34)
    edge = rng.uniform(0.06, 0.2) if malignant else rng.uniform(0.04, 0.1)
    rim = 0.12 * cover(np.abs(lesion - 0.05) - 0.03, edge=0.1) * (rng.random() < 0.6)
    wide = np.abs(x - centre[0]) - 0.8 * extent / shape**0.5
    behind = cover(wide, edge=0.12) * cover(centre[1] - y, edge=extent) * (1 - cover(lesion))
    image = image + rng.choice(BEHIND, p=CHANCES[finding]) * behind + rim
    image = blend(image, inside, cover(lesion, edge=edge))
    image = image - fade * y + 0.11 * speckle
    return Drawing(np.clip(image, 0, 1), (lesion < 0).astype(np.uint8))


PHANTOM = Phantom(
    classes=("benign", "malignant"),
    channels=1,
    scanners={
        "standard": Scanner(shift=0.02, noise=0.015),
        "other": Scanner(
            rotation=(-6, 6),
            scale=(1.0, 1.2),
            shift=0.04,
            blur=0.01,
            vignette=0.3,
            speckle=0.12,
            noise=0.03,
            grain=0.6,
            window=(0.05, 0.9),
            gamma=(1.1, 1.5),
        ),
    },
    prevalence={"standard": (0.6, 0.4), "other": (0.75, 0.25)},
    draw=draw,
)
