"""Corruptions by noise against their stated spectra and deviations."""

from __future__ import annotations

import numpy as np
import pytest

from medtransfer.corruptions import corrupt
from tests.helpers.corruptions import flat, residual, strength


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("gaussian-noise", lambda strength, value: strength),
        ("low-dose", lambda strength, value: strength),
        ("shot-noise", lambda strength, value: np.sqrt(value / strength)),
        ("speckle-noise", lambda strength, value: strength * value),
    ],
)
@pytest.mark.parametrize("value", [100, 150])
def test_noise_has_the_stated_deviation(kind: str, deviation: object, value: int) -> None:
    """The noise's deviation follows its law of strength and brightness; its mean is 0."""
    image = flat(value, shape=(200, 200))
    noise = residual(image, kind=kind, severity=2)
    expected = deviation(strength(kind, 2), value / 255)  # type: ignore[operator]
    assert noise.std() == pytest.approx(expected, rel=0.03)
    assert abs(noise.mean()) < 0.04 * expected


def test_spectra_of_noise() -> None:
    """Detector noise is white; that of a low dose grows with the frequency, and it has streaks.

    Streaks are directions with far more power than others.
    """
    fy, fx = np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij")
    cycles = 128 * np.hypot(fy, fx)
    coarse, fine = ((cycles > low) & (cycles < 2 * low) for low in (2, 8))
    sector = (np.arctan2(fy, fx) / np.pi % 1 * 12).astype(int) % 12
    tilt, contrast = {}, {}
    for kind in ("gaussian-noise", "low-dose"):
        field = residual(flat(128, shape=(128, 128)), kind=kind, severity=2)
        power = np.abs(np.fft.fft2(field)) ** 2
        tilt[kind] = power[fine].mean() / power[coarse].mean()
        sectors = [power[fine & (sector == k)].mean() for k in range(12)]
        contrast[kind] = max(sectors) / min(sectors)
    assert 0.6 < tilt["gaussian-noise"] < 1.6
    assert 1.7 < tilt["low-dose"] < 5
    assert contrast["gaussian-noise"] < 2.5
    assert contrast["low-dose"] > 5


def test_impulses_are_black_or_white() -> None:
    """The stated share of the pixels is black or white, about half of them each."""
    after = corrupt(flat(128, shape=(200, 200)), kind="impulse-noise", severity=5, seed=2)
    assert set(np.unique(after)) == {0, 128, 255}
    assert (after != 128).mean() == pytest.approx(strength("impulse-noise", 5), rel=0.1)
    assert (after == 0).sum() == pytest.approx((after == 255).sum(), rel=0.15)


def test_rings_are_round() -> None:
    """A ring artefact is the same after a quarter turn and in the mirror, and is not constant."""
    rings = corrupt(flat(128), kind="ring-artefact", severity=4, seed=3)
    np.testing.assert_array_equal(rings, np.rot90(rings))
    np.testing.assert_array_equal(rings, rings[::-1])
    assert rings.std() > 5
