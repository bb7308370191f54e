"""An axial abdominal CT slice: normal, or with a cyst or a mass in the liver.

Brightness stands for Hounsfield units in a soft-tissue window: air black, fat dark, bone white.
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
    place_within,
    power_noise,
)

AIR, FAT, FLUID, MUSCLE, BONE = 0.02, 0.22, 0.36, 0.52, 0.95
REGIONS = ("background", "liver", "spleen", "kidney", "lesion")
BACKGROUND, LIVER, SPLEEN, KIDNEY, LESION = range(len(REGIONS))


def _lesion(rng: np.random.Generator, x: Field, y: Field, liver: Field) -> Field:
    """Return the coverage of a roundish lesion of the liver."""
    ragged = 0.02 * power_noise(rng, x.shape[0], exponent=3.0)
    place, angle = place_within(rng, liver), rng.uniform(0, np.pi)
    radii = (rng.uniform(0.09, 0.16), rng.uniform(0.09, 0.16))
    lesion: Field = cover(ellipse(x, y, place, radii, angle) + ragged, edge=0.05) * liver
    return lesion


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one abdominal slice with or without a lesion of the liver, (size, size)."""
    x, y = frame(size)
    width, depth = rng.uniform(0.82, 0.93), rng.uniform(0.66, 0.77)
    fat = rng.uniform(0.05, 0.14)
    warp = 0.015 * power_noise(rng, size, exponent=3.5)
    skin = ellipse(x, y, (0, 0), (width, depth)) + warp
    wall = skin + fat
    cavity = wall + 0.07
    image = blend(np.full_like(x, AIR), FAT, cover(skin))
    image = blend(image, 0.45, cover(np.abs(skin + 0.01) - 0.012))
    image = blend(image, MUSCLE, cover(wall))
    image = blend(image, FAT + 0.05, cover(cavity, edge=0.05))

    spine = (rng.uniform(-0.03, 0.03), depth - fat - rng.uniform(0.26, 0.32))
    for side in (-1, 1):  # muscles along the spine
        muscle = ellipse(x, y, (spine[0] + side * 0.2, spine[1] + 0.14), (0.15, 0.1), side * 0.3)
        image = blend(image, MUSCLE, cover(muscle))

    bright = rng.uniform(0.48, 0.66)  # the phase of the contrast agent
    liver_at = (-0.4 * width + rng.uniform(-0.03, 0.03), rng.uniform(-0.14, -0.04))
    liver_shape = np.minimum(
        ellipse(x, y, liver_at, (0.46 * width, 0.56 * depth), rng.uniform(-0.2, 0.2)),
        ellipse(x, y, (liver_at[0] + 0.3, liver_at[1] - 0.2), (0.36, 0.24), 0.15),
    )
    # What is painted over the liver later is taken out of its coverage.
    liver = cover(np.maximum(liver_shape + warp, cavity + 0.015))
    image = blend(image, bright, liver)
    regions = np.where(liver > 0.5, LIVER, BACKGROUND).astype(np.uint8)
    vessels = np.abs(power_noise(rng, size, exponent=3.0))
    image = image + rng.uniform(-0.04, 0.1) * liver * cover(vessels - 0.1, edge=0.2)

    stomach_at = (0.42 * width, rng.uniform(-0.3, -0.18))
    stomach = ellipse(x, y, stomach_at, (rng.uniform(0.2, 0.3), rng.uniform(0.16, 0.24)), 0.5)
    stomach = np.maximum(stomach, cavity + 0.02)
    image = blend(image, MUSCLE, cover(stomach))
    liver = liver * (1 - cover(stomach))
    regions[stomach < 0] = BACKGROUND
    image = blend(image, rng.uniform(0.36, 0.5), cover(stomach + 0.04))
    gas = np.maximum(stomach + 0.05, y - stomach_at[1] + rng.uniform(0.0, 0.15))
    image = blend(image, AIR, cover(gas))
    spleen = ellipse(x, y, (0.68 * width, rng.uniform(0.05, 0.15)), (0.13, 0.27), 0.25)
    spleen = np.maximum(spleen, cavity + 0.015)
    image = blend(image, bright + 0.03, cover(spleen))
    regions[spleen < 0] = SPLEEN
    for side in (-1, 1):
        kidney_at = (spine[0] + side * rng.uniform(0.37, 0.43), spine[1] - rng.uniform(0.0, 0.08))
        kidney = ellipse(x, y, kidney_at, (0.12, rng.uniform(0.14, 0.18)), -0.4 * side)
        image = blend(image, FAT + 0.03, cover(kidney - 0.03))
        liver = liver * (1 - cover(kidney - 0.03))
        image = blend(image, bright + 0.1, cover(kidney))
        image = blend(image, FAT + 0.12, cover(kidney + 0.085))
        regions[kidney < 0.03] = BACKGROUND  # the fat around it; that within counts as kidney
        regions[kidney < 0] = KIDNEY
    for place, radius in ((-0.14, 0.065), (0.09, 0.06)):  # vena cava, aorta
        vessel = ellipse(x, y, (spine[0] + place, spine[1] - 0.2), (radius, radius))
        image = blend(image, bright + rng.uniform(0.02, 0.2), cover(vessel))
        liver = liver * (1 - cover(vessel))
        regions[vessel < 0] = BACKGROUND
    gall_at = (liver_at[0] + rng.uniform(0.2, 0.32), liver_at[1] + rng.uniform(0.16, 0.28))
    gall = cover(ellipse(x, y, gall_at, (rng.uniform(0.04, 0.09), 0.1), rng.uniform(-0.5, 0.5)))
    image = blend(image, FLUID, gall)
    liver = liver * (1 - gall)
    regions[gall > 0.5] = BACKGROUND

    vertebra = ellipse(x, y, spine, (0.15, 0.125))
    image = blend(image, BONE, cover(vertebra))
    regions[vertebra < 0] = BACKGROUND
    image = blend(image, 0.72, cover(ellipse(x, y, spine, (0.115, 0.09))))
    process = ellipse(x, y, (spine[0], spine[1] + 0.22), (0.045, 0.14))
    arch = np.abs(ellipse(x, y, (spine[0], spine[1] + 0.15), (0.1, 0.07))) - 0.025
    image = blend(image, BONE, cover(np.minimum(process, arch)))
    image = blend(image, 0.4, cover(ellipse(x, y, (spine[0], spine[1] + 0.15), (0.06, 0.045))))
    beat, phase = rng.integers(11, 15), rng.uniform(0, 2 * np.pi)
    around = np.cos(beat * np.arctan2(y, x) + phase)
    ribs = cover(np.abs(wall + 0.05) - 0.022) * cover(0.55 - around, edge=0.4)
    image = blend(image, BONE, ribs * cover(spine[1] - 0.85 - y, edge=0.1))

    image = image + 0.02 * cover(skin) * power_noise(rng, size, exponent=2.0)

    lesion = np.zeros_like(x)
    if finding != "normal":
        lesion = _lesion(rng, x, y, liver)
        step = rng.uniform(0.16, 0.26)
        image = image + lesion * (-step if finding == "cyst" else step)
    regions[lesion > 0.5] = LESION
    return Drawing(np.clip(image, 0, 1), (lesion > 0.5).astype(np.uint8), regions)


PHANTOM = Phantom(
    classes=("normal", "cyst", "mass"),
    channels=1,
    scanners={
        "standard": Scanner(
            noise=0.03, grain=0.5, rotation=(-7, 7), scale=(0.93, 1.04), shift=0.04
        ),
        "other": Scanner(
            rotation=(-14, 14),
            scale=(0.82, 0.98),
            shift=0.06,
            blur=0.01,
            noise=0.035,
            grain=0.8,
            window=(0.1, 0.85),
            gamma=(0.75, 1.0),
        ),
    },
    prevalence={"standard": (0.34, 0.33, 0.33), "other": (0.6, 0.25, 0.15)},
    draw=draw,
    regions=REGIONS,
)
