"""Corruptions by blur against independent accounts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medtransfer.corruptions import corrupt
from tests.helpers.corruptions import SEVERITIES, Pixels, chest, flat, point, strength, varied


def spot() -> Pixels:
    """A bright spot that is a few pixels wide."""
    image = ndimage.gaussian_filter(point().astype(float), 3)
    return (image / image.max() * 255).astype(np.uint8)


def spread(image: Pixels) -> NDArray[np.float64]:
    """Variances of the brightness along the rows' and the columns' axis, in squared pixels."""
    weight = image / image.sum(dtype=float)
    places = np.indices(image.shape)
    centre = (places * weight).sum((1, 2), keepdims=True)
    moments: NDArray[np.float64] = ((places - centre) ** 2 * weight).sum((1, 2))
    return moments


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_agrees_with_scipy(severity: int) -> None:
    """In the middle of a smooth image, the blur is scipy's with the stated share of the width."""
    image = ndimage.gaussian_filter(chest(128), 1.5)
    ours = corrupt(image, kind="gaussian-blur", severity=severity, seed=0)
    sigma = 128 * strength("gaussian-blur", severity)
    theirs = ndimage.gaussian_filter(image.astype(float), sigma, mode="reflect", truncate=6)
    np.testing.assert_allclose(ours, theirs, atol=1.5)


def test_blurs_have_the_stated_width() -> None:
    """A point's variance is r² / 4 on each axis for a disc and L² / 12 in all for a movement."""
    image = spot()
    disc, moved = (
        spread(corrupt(image, kind=kind, severity=5, seed=1)) - spread(image)
        for kind in ("defocus-blur", "motion-blur")
    )
    radius, length = (63 * strength(kind, 5) for kind in ("defocus-blur", "motion-blur"))
    np.testing.assert_allclose(disc, radius**2 / 4, rtol=0.1)
    assert moved.sum() == pytest.approx(length**2 / 12, rel=0.1)


def test_motion_goes_one_way() -> None:
    """Across its direction a movement blurs nothing; the direction differs between images."""
    before = spread(spot())
    turns = []
    for seed in range(12):
        after = corrupt(spot(), kind="motion-blur", severity=5, seed=seed)
        places = np.indices(after.shape).reshape(2, -1)
        across, along = np.linalg.eigvalsh(np.cov(places, aweights=after.ravel()))
        assert across == pytest.approx(before[0], rel=0.1)
        assert along > 1.5 * across
        turns.append((spread(after) - before)[0])
    assert max(turns) > 4 * min(turns)


@pytest.mark.parametrize("kind", ["gaussian-blur", "defocus-blur", "motion-blur", "pixelation"])
def test_blur_keeps_brightness(kind: str) -> None:
    """An average adds nothing: the mean stays, constants stay, and the extremes do not grow."""
    for image in varied(kind):
        after = corrupt(image, kind=kind, severity=4, seed=2)
        assert after.mean() == pytest.approx(image.mean(), abs=2)
        assert after.std() < image.std()
    for value in (0, 77, 255):
        np.testing.assert_array_equal(
            corrupt(flat(value), kind=kind, severity=5, seed=2), flat(value)
        )


def test_opposite_edges_do_not_mix() -> None:
    """What lies at one edge is not seen at the other after the strongest blur."""
    image = flat(0, shape=(48, 80))
    image[:, :10] = image[:6] = 255
    for kind in ("gaussian-blur", "defocus-blur", "motion-blur"):
        for seed in range(4):
            assert corrupt(image, kind=kind, severity=5, seed=seed)[-8:, -8:].max() <= 2
