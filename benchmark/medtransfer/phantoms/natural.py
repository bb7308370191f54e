"""Coloured, textured objects on 1/f backgrounds: the phantom of natural images.

The class is the object's outline alone; colour, texture, light, place, size and turn are random.
"""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    Scanner,
    blend,
    cover,
    frame,
    power_noise,
)


def _outline(shape: str, radius: Field, angle: Field) -> Field:
    """Return a signed distance-like function of polar coordinates; the object's size is one."""
    if shape == "disc":
        return radius - 0.95
    if shape == "ring":
        return np.abs(radius - 0.85) - 0.27
    if shape == "star":
        # The edge from the tip (radius 1.35, angle 0) to the notch (radius .58, angle pi / 5).
        turn = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        u, v = radius * np.cos(turn), radius * np.sin(turn)
        tip, notch = np.array([1.35, 0.0]), 0.58 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
        normal = np.array([notch[1] - tip[1], tip[0] - notch[0]])
        normal /= np.hypot(*normal)
        distance: Field = (u - tip[0]) * normal[0] + v * normal[1]
        return distance
    sides, apothem = {"triangle": (3, 0.68), "box": (4, 0.86)}[shape]
    turn = (angle + np.pi / sides) % (2 * np.pi / sides) - np.pi / sides
    polygon: Field = radius * np.cos(turn) - apothem
    return polygon


def _texture(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Return a pattern (H, W) in about [-1, 1]: mottled, or striped in a random direction."""
    size = x.shape[0]
    mottled = 0.6 * power_noise(rng, size, exponent=2.5)
    direction, phase = rng.uniform(0, 2 * np.pi, 2)
    pitch = rng.uniform(10, 22)
    stripes: Field = np.sin(pitch * (x * np.cos(direction) + y * np.sin(direction)) + phase)
    return mottled if rng.random() < 0.6 else stripes


def draw(rng: np.random.Generator, finding: str, size: int) -> Drawing:
    """Draw one object of the shape `finding` on a coloured background, (size, size, 3)."""
    x, y = frame(size)
    clouds = np.stack([power_noise(rng, size, exponent=3.0) for _ in range(3)], axis=-1)
    shared = power_noise(rng, size, exponent=2.6)[..., None]
    ground = rng.uniform(0.25, 0.55, 3) + 0.08 * shared + 0.06 * clouds
    texture = _texture(rng, x, y)[..., None]

    pale = rng.random() < 0.8
    colour = np.clip(rng.uniform(0.45, 1.0, 3) if pale else rng.uniform(0.0, 0.25, 3), 0, 1)
    extent = rng.uniform(0.4, 0.56)
    u0, v0 = rng.uniform(-0.16, 0.16, 2)
    turn, light = rng.uniform(-0.5, 0.5), rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.88, 1.14)
    u, v = (x - u0) / extent * stretch, (y - v0) / extent / stretch
    distance = extent * _outline(finding, np.hypot(u, v), np.arctan2(v, u) - turn - np.pi / 2)

    shadow = cover(np.roll(distance, (size // 20, size // 24), (0, 1)), edge=0.15)
    shade = 0.12 * (u * np.cos(light) + v * np.sin(light))
    body = colour + 0.1 * texture + shade[..., None]
    body = body * (1 - 0.35 * cover(-distance - 0.03, edge=0.06))[..., None]  # a darker rim
    coverage = cover(distance)
    image = blend(ground * (1 - 0.35 * shadow)[..., None], body, coverage[..., None])
    return Drawing(np.clip(image, 0, 1), (coverage > 0.5).astype(np.uint8))


PHANTOM = Phantom(
    classes=("disc", "box", "triangle", "star", "ring"),
    channels=3,
    scanners={
        "standard": Scanner(noise=0.03),
        "other": Scanner(
            rotation=(-25, 25),
            scale=(0.8, 1.0),
            shift=0.06,
            blur=0.01,
            vignette=0.4,
            noise=0.05,
            window=(-0.1, 0.9),
            gamma=(1.2, 1.7),
        ),
    },
    prevalence={
        "standard": (0.2, 0.2, 0.2, 0.2, 0.2),
        "other": (0.1, 0.3, 0.2, 0.1, 0.3),
    },
    draw=draw,
)
