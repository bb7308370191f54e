"""Scanners, poses and shapes of which phantoms are drawn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medtransfer.phantoms import Drawing, Scanner, acquire, generate
from medtransfer.phantoms.canvas import blob, cover, curves, discs, ellipse, frame
from tests.helpers.phantoms import generator


def photograph(image: NDArray[np.float64], seed: int, scanner: Scanner) -> NDArray[np.float64]:
    """What a scanner makes of an image alone."""
    return acquire(
        Drawing(image, np.zeros(image.shape[:2], np.uint8)), generator(seed), scanner
    ).image


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3)])
def test_neutral_scanner_changes_nothing(shape: tuple[int, ...]) -> None:
    """Without noise, a scanner of default settings returns the object itself."""
    image = generator(1).random(shape)
    taken = photograph(image, 2, Scanner(noise=0.0))
    np.testing.assert_allclose(taken, image, atol=1e-12)


def test_pose_moves_the_object() -> None:
    """A magnification of two doubles an object's width and keeps its centre."""
    image = np.zeros((64, 64))
    image[24:40, 24:40] = 1
    taken = photograph(image, 0, Scanner(noise=0.0, scale=(2.0, 2.0)))
    assert taken.sum() == pytest.approx(4 * image.sum(), rel=0.02)
    assert ndimage.center_of_mass(taken) == pytest.approx((31.5, 31.5))


def test_cast_scales_the_colours() -> None:
    """A colour cast is a gain for each colour; a grey image has none."""
    image = 0.5 * generator(1).random((16, 16, 3))
    device = Scanner(noise=0.0, cast=(0.5, 1.0, 1.5))
    taken = photograph(image, 2, device)
    np.testing.assert_allclose(taken, image * [0.5, 1.0, 1.5], atol=1e-12)
    grey = photograph(image[..., 0], 2, device)
    np.testing.assert_allclose(grey, image[..., 0], atol=1e-12)


def test_shapes_are_distances() -> None:
    """Discs, curves and blobs without waves agree with shapes whose distance is known."""
    x, y = frame(64)
    two = discs(x, y, np.array([[-0.4, 0.1], [0.5, 0.0]]), np.array([0.2, 0.3]))
    one = [ellipse(x, y, (-0.4, 0.1), (0.2, 0.2)), ellipse(x, y, (0.5, 0.0), (0.3, 0.3))]
    np.testing.assert_allclose(two, np.minimum(*one), atol=1e-6)
    line = curves(y, (0.75 * x[0] + 0.1)[None], np.full((1, 64), 0.05))
    np.testing.assert_allclose(line, np.abs(0.8 * y - 0.6 * x - 0.08) - 0.05, atol=1e-9)
    placed = {"centre": (0.1, 0.0), "radii": (0.5, 0.3), "angle": 0.4}
    plain = blob(generator(0), x, y, **placed, waves={})
    np.testing.assert_array_equal(plain, ellipse(x, y, (0.1, 0.0), (0.5, 0.3), 0.4))
    waved = blob(generator(0), x, y, **placed, waves={5: 0.04})
    assert np.abs(waved - plain).max() == pytest.approx(0.04, rel=0.02)
    assert cover(waved).sum() == pytest.approx(cover(plain).sum(), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chest-xry", "train", "standard"), r"unknown phantom 'chest-xry'; .*'chest-xray'"),
        (("ct", "trian", "standard"), r"unknown split 'trian'; .*'train'"),
        (("ct", "train", "othr"), r"unknown scanner 'othr'; .*'other'"),
        (("mri", "train", "other"), r"unknown phantom 'mri'; choose one of natural, .*dermoscopy"),
    ],
)
def test_unknown_names_say_what_would_work(arguments: tuple[str, str, str], message: str) -> None:
    """A misspelt name is refused with the name that was probably meant."""
    phantom, split, scanner = arguments
    with pytest.raises(ValueError, match=message):
        generate(phantom, split=split, scanner=scanner, items=1)
