"""Artefacts of a device or a patient: uneven sensitivity, ghosts, shadows and hair."""

from __future__ import annotations

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from medtransfer.corruptions.geometry import Image, coordinates, width_of

CANVAS = 256  # pixels of a width on which hair is drawn before it is scaled to the image
HAIR_COLOUR = (0.13, 0.09, 0.07)


def add_bias_field(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Add a coil's uneven sensitivity: values change by up to exp(+-``strength``).

    The logarithm is a random polynomial, the model of Van Leemput et al. (IEEE Trans. Med. Imaging
    18, 1999), here of third order.
    """
    x, y = coordinates(image)
    terms = [(i, j) for i in range(4) for j in range(4 - i) if i + j]
    weights = rng.uniform(-1, 1, len(terms))
    field: Image = sum(w * x**i * y**j for w, (i, j) in zip(weights, terms, strict=True))
    return image * np.exp(strength * field / float(np.abs(field).max()))


def add_ghosts(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Move a share of ``strength`` of the signal to two ghosts, as of a pulsating vessel in MRI.

    A change that repeats every n lines of the phase encoding repeats the image, shifted by 1 / n
    of its extent and wrapped around.
    """
    axis = int(rng.integers(2))
    distance = round(image.shape[axis] / rng.uniform(3, 6))
    ghosts = np.roll(image, distance, axis) + np.roll(image, -distance, axis)
    return (1 - strength) * image + strength * ghosts / 2


def add_vignette(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Dim the light by the squared distance from a random point near the centre.

    At the distance of a corner from the centre, ``strength`` of it is lost.
    """
    x, y = coordinates(image)
    across, down = rng.uniform(-0.4, 0.4, 2)
    lost = strength * ((x - across) ** 2 + (y - down) ** 2) / 2
    light: Image = np.maximum(1 - lost, 0)
    return image * light


def darken_corners(image: Image, strength: float, _rng: np.random.Generator) -> Image:
    """Add the soft black rim of a round lens with a radius of ``strength`` half-widths."""
    soft = 0.05
    distance = np.hypot(*coordinates(image))
    light: Image = np.clip((strength - distance) / soft + 0.5, 0, 1)
    return image * light


def draw_hair(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Draw ``strength`` dark hairs, each about a hundredth of the width across."""
    scale = CANVAS / width_of(image)
    height, breadth = (max(1, round(scale * n)) for n in image.shape[:2])
    canvas = PillowImage.new("L", (breadth, height))
    drawing = ImageDraw.Draw(canvas)
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(strength)):
        middle = rng.random(2) * (breadth, height)
        angle = 2 * np.pi * rng.random()
        along = CANVAS * rng.uniform(0.5, 1.0) * np.array([np.cos(angle), np.sin(angle)])
        bend = rng.uniform(-0.4, 0.4) * along[::-1] * (-1, 1)
        points = middle + (t - 0.5) * along + 4 * t * (1 - t) * bend
        drawing.line(points.ravel().tolist(), fill=255, width=int(rng.integers(2, 4)))
    size = (image.shape[1], image.shape[0])
    cover = np.asarray(canvas.resize(size, PillowImage.Resampling.BILINEAR))[..., None] / 255
    colour = np.array(HAIR_COLOUR) if image.shape[2] == 3 else np.mean(HAIR_COLOUR)
    return image + cover * (colour - image)
