"""Corruptions by artefacts of acquisition against independent accounts."""

from __future__ import annotations

import numpy as np
import pytest

from medtransfer.corruptions import corrupt
from tests.helpers.corruptions import chest, flat, point, residual, strength


def test_bias_field_is_smooth_and_bounded() -> None:
    """Values change by at most exp(+-strength), reach that bound, and vary slowly."""
    gain = np.log(corrupt(flat(60), kind="bias-field", severity=3, seed=4) / 60)
    assert abs(gain).max() == pytest.approx(strength("bias-field", 3), abs=0.02)
    assert max(abs(np.diff(gain, axis=axis)).max() for axis in (0, 1)) < 0.2
    assert gain.std() > 0.1


def test_ghosts_are_copies() -> None:
    """A point keeps a share of its signal and gives the rest to two ghosts, evenly."""
    s = strength("ghosting", 5)
    for seed in range(4):
        after = corrupt(point(), kind="ghosting", severity=5, seed=seed)
        rows, columns = np.nonzero(after)
        assert len(rows) == 3
        assert len(set(rows)) == 1 or len(set(columns)) == 1
        assert sorted(after[rows, columns]) == pytest.approx(
            [255 * s / 2, 255 * s / 2, 255 * (1 - s)], abs=1
        )
        distances = np.ptp(np.r_[rows, columns].reshape(2, 3), axis=1).max() / 2
        assert 63 / 6 - 1 < distances < 63 / 3 + 1


def test_light_falls_off_from_one_place() -> None:
    """A vignette is brightest at a place off the centre and darkens away from it."""
    peaks = set()
    for seed in range(4):
        light = corrupt(flat(200), kind="vignette", severity=4, seed=seed).astype(int)
        row, column = np.unravel_index(light.argmax(), light.shape)
        assert (np.diff(light[row, column:]) <= 0).all()
        assert (np.diff(light[row:, column]) <= 0).all()
        assert light.min() < 100 < 195 < light.max()
        peaks.add((row, column))
    assert len(peaks) == 4


def test_corners_are_black_and_the_centre_is_not() -> None:
    """The rim has the stated radius: outside it all is black, inside it nothing changes."""
    image = chest()
    after = corrupt(image, kind="dark-corners", severity=5, seed=0)
    y, x = (np.indices(image.shape) + 0.5) / 32 - 1
    distance, radius = np.hypot(x, y), strength("dark-corners", 5)
    assert not after[distance > radius + 0.03].any()
    inside = distance < radius - 0.03
    np.testing.assert_array_equal(after[inside], image[inside])


def test_hair_is_thin_and_dark() -> None:
    """A hair covers about a hundredth of the width, in colour as in grey, at any size."""
    for size in (28, 64, 224):
        image = np.full((size, size, 3), 200, np.uint8)
        one = residual(image, kind="hair", severity=1, seed=6)
        assert one.max() <= 0
        assert 0.002 < -one.mean() < 0.02
    assert corrupt(image, kind="hair", severity=5, seed=6).min() < 40
