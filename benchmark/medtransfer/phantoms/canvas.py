"""Shared parts of phantoms: coordinates, soft-edged shapes, noise, and the scanner.

Shapes are signed distances (negative inside, in half-widths of the image), turned into coverage
between 0 and 1 over about one pixel: anti-aliasing without supersampling. Every shape exists as an
array of its own before it is painted, so that the masks of anatomy are there when they are needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float64]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """The object in front of the scanner, or what the scanner makes of it."""

    image: Field  # brightness in [0, 1], (H, W) for grey or (H, W, 3) for colour
    mask: Mask  # (H, W), 1 where the finding (in `natural`, the object) is, else 0
    regions: Mask | None = None  # (H, W), indices into the phantom's regions, if it has any


@dataclass(frozen=True)
class Scanner:
    """Settings that turn an object into an image; ranges are sampled uniformly."""

    rotation: tuple[float, float] = (0.0, 0.0)  # degrees, counter-clockwise
    scale: tuple[float, float] = (1.0, 1.0)  # magnification
    shift: float = 0.0  # largest displacement along each axis, share of the image's width
    blur: float = 0.0  # deviation of the point spread, share of the image's width
    collimation: float = 0.0  # largest dark border on each side, share of the image's width
    vignette: float = 0.0  # share of the brightness lost in the corners
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gain of red, green and blue
    speckle: float = 0.0  # deviation of multiplicative noise
    quantum: float = 0.0  # deviation of noise at brightness 1, growing with the square root
    noise: float = 0.02  # deviation of additive noise
    grain: float = 0.0  # correlation length of all noise in pixels, the deviations kept
    window: tuple[float, float] = (0.0, 1.0)  # brightnesses shown as black and as white
    gamma: tuple[float, float] = (1.0, 1.0)  # exponent applied after the window


@dataclass(frozen=True)
class Phantom:
    """A kind of image with a known truth.

    `draw` takes a generator, a finding and a size in pixels. It draws the anatomy before the
    finding, so equal generators give equal anatomy. The finding is the name of a class; where
    several labels may hold it is the frozenset of their names.
    """

    classes: tuple[str, ...]  # names of the findings, in label order
    channels: int  # 1 for grey, 3 for colour
    scanners: Mapping[str, Scanner]  # how each scanner, by its name, takes its images
    prevalence: Mapping[str, tuple[float, ...]]  # share of each class, by the scanner's name
    draw: Callable[[np.random.Generator, Any, int], Drawing]
    multilabel: bool = False  # whether an image has any number of the classes, and not just one
    regions: tuple[str, ...] = ()  # names of the ids in a drawing's `regions`; 0 is the background


@lru_cache(maxsize=8)
def frame(size: int) -> tuple[Field, Field]:
    """Return the coordinates (x, y) of the pixels' centres, each (size, size), in [-1, 1].

    x points right and y down; an image is two units wide.
    """
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(centres, centres)
    for axis in (x, y):
        axis.flags.writeable = False  # shared by every drawing of this size
    return x, y


def cover(distance: Field, *, edge: float = 0.0) -> Field:
    """Turn a signed distance (H, W) into coverage in [0, 1].

    `edge` is the width of the transition in half-widths of the image; at least one pixel is used.
    """
    width = max(edge, 2 / distance.shape[0])
    covered: Field = np.clip(0.5 - distance / width, 0.0, 1.0)
    return covered


def ellipse(
    x: Field, y: Field, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> Field:
    """Return the signed distance (H, W) to an ellipse turned by `angle` radians, to first order.

    With k = |p / r|, the level set k = 1 is the ellipse and (k - 1) / |grad k| the distance to it.
    """
    dx, dy = x - centre[0], y - centre[1]
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / radii[0]
    v = (np.cos(angle) * dy - np.sin(angle) * dx) / radii[1]
    k = np.sqrt(u * u + v * v) + 1e-9
    gradient = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2) / k + 1e-9
    distance: Field = (k - 1) / gradient
    return distance


def blob(
    rng: np.random.Generator,
    x: Field,
    y: Field,
    *,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    waves: Mapping[int, float],
) -> Field:
    """Return the signed distance (H, W) to an ellipse with an undulating outline.

    `waves` gives the depth of the undulation for each number of waves around.
    """
    around = np.arctan2(y - centre[1], x - centre[0])
    distance = ellipse(x, y, centre, radii, angle)
    for count, depth in waves.items():
        distance = distance - depth * np.cos(count * around + rng.uniform(0, 2 * np.pi))
    return distance


def discs(x: Field, y: Field, places: Field, radii: Field) -> Field:
    """Return the signed distance (H, W) to the union of discs of places (N, 2), radii (N,)."""
    dx, dy = x - places[:, :1, None], y - places[:, 1:, None]
    distance: Field = (np.sqrt(dx * dx + dy * dy) - radii[:, None, None]).min(axis=0)
    return distance


def curves(y: Field, heights: Field, widths: Field) -> Field:
    """Return the signed distance (H, W) to the union of curves y = heights, to first order.

    Args:
        y: coordinates, (H, W).
        heights: of N curves at each column, (N, W).
        widths: half of their widths, (N, W); negative where a curve has ended.
    """
    slopes = np.gradient(heights, 2 / y.shape[1], axis=1)[:, None]
    away = np.abs(y - heights[:, None]) / np.sqrt(1 + slopes * slopes) - widths[:, None]
    distance: Field = away.min(axis=0)
    return distance


def blend(image: Field, value: Field | float, coverage: Field) -> Field:
    """Paint `value` over `image` where `coverage` says so."""
    painted: Field = image + coverage * (value - image)
    return painted


def place_within(rng: np.random.Generator, organ: Field) -> tuple[float, float]:
    """Return a random point (x, y) in the interior of an organ's coverage (H, W).

    What is painted around it stays visible, so that the label of a finding is the truth.
    """
    size = organ.shape[0]
    interior = ndimage.uniform_filter(organ, max(size // 8, 1), mode="nearest")
    candidates = np.flatnonzero(interior >= 0.9 * interior.max())
    chosen = candidates[int(rng.random() * len(candidates))]
    x, y = frame(size)
    return float(x.flat[chosen]), float(y.flat[chosen])


def power_noise(rng: np.random.Generator, size: int, *, exponent: float = 2.0) -> Field:
    """Return noise (size, size) of mean 0 and deviation 1 whose power falls as 1 / f^exponent.

    Natural images have an exponent near 2, mammograms and lung texture near 3 (Burgess et al.,
    "Human observer detection experiments with mammograms and power-law noise", 2001).
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * frequency ** (-exponent / 2)
    noise = np.fft.irfft2(spectrum, s=(size, size))
    scaled: Field = noise / noise.std()
    return scaled


def acquire(drawing: Drawing, rng: np.random.Generator, scanner: Scanner) -> Drawing:
    """Take the image of an object: pose, collimation, blur, noise, window and gamma.

    Args:
        drawing: the object.
        rng: source of the pose, the border and the noise.
        scanner: what to do.

    Returns:
        The image, and the masks in the same pose; what the collimator hides is in no mask.
    """
    size = drawing.image.shape[0]
    colour = (0.0,) * (drawing.image.ndim - 2)  # neither blur nor grain mixes the colours
    x, y = frame(size)
    opening = np.ones_like(x)
    if scanner.collimation:
        left, right, top, bottom = 2 * scanner.collimation * rng.random(4) - 1
        opening = cover(np.maximum.reduce([left - x, right + x, top - y, bottom + y]))
    light = (1 - scanner.vignette * (x * x + y * y) / 2) * opening
    pose = _choose_pose(rng, scanner, size)
    image = _move(drawing.image, pose, order=1)
    image = image * light.reshape(size, size, *(1 for _ in colour))
    if colour:
        image = image * np.array(scanner.cast)
    if scanner.blur:
        image = ndimage.gaussian_filter(image, (scanner.blur * size,) * 2 + colour, mode="nearest")
    grain = rng.standard_normal(image.shape)
    if scanner.grain:
        grain = ndimage.gaussian_filter(grain, (scanner.grain,) * 2 + colour, mode="wrap")
        grain /= grain.std()
    variance = (scanner.speckle * image) ** 2 + scanner.quantum**2 * image + scanner.noise**2
    black, white = scanner.window
    image = (image + np.sqrt(variance) * grain - black) / (white - black)
    shown: Field = np.clip(image, 0, 1) ** rng.uniform(*scanner.gamma)
    seen, regions = opening > 0.5, drawing.regions
    return Drawing(
        image=shown,
        mask=_move(drawing.mask, pose, order=0) * seen,
        regions=None if regions is None else _move(regions, pose, order=0) * seen,
    )


def _choose_pose(rng: np.random.Generator, scanner: Scanner, size: int) -> tuple[Field, Field]:
    """Return a matrix (2, 2) and an offset (2,): row and column shown by a pixel, from its own."""
    angle, scale = np.deg2rad(rng.uniform(*scanner.rotation)), rng.uniform(*scanner.scale)
    shift = rng.uniform(-scanner.shift, scanner.shift, 2) * size
    # With c the centre, the pixel at p shows the object at matrix (p - c - shift) + c.
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    matrix = np.array([[cos, sin], [-sin, cos]])
    offset: Field = (size - 1) / 2 - matrix @ ((size - 1) / 2 + shift)
    return matrix, offset


def _move(image: NDArray[Any], pose: tuple[Field, Field], *, order: Literal[0, 1]) -> NDArray[Any]:
    """Move an image or a mask; order 1 interpolates, order 0 takes the nearest pixel."""
    planes = np.atleast_3d(image)
    moved = [
        ndimage.affine_transform(planes[..., k], *pose, order=order, mode="nearest")
        for k in range(planes.shape[2])
    ]
    return np.stack(moved, axis=-1).reshape(image.shape)
