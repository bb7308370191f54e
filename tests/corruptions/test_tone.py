"""Corruptions of tone and colour against independent accounts."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PillowImage

from medtransfer.corruptions import corrupt
from medtransfer.phantoms import generate
from tests.helpers.corruptions import SEVERITIES, flat, residual, strength


def test_tones_follow_their_curves() -> None:
    """Brightness, contrast and gamma map every grey value as their formulas say."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    v, mean = values / 255, 0.5
    for severity in SEVERITIES:
        for direction in ("up", "down"):
            curves = {
                "brightness": lambda s: v * s,
                "contrast": lambda s: mean + s * (v - mean),
                "gamma": lambda s: v**s,
            }
            for name, curve in curves.items():
                kind = f"{name}-{direction}"
                after = corrupt(values, kind=kind, severity=severity, seed=0)
                expected = 255 * np.clip(curve(strength(kind, severity)), 0, 1)
                np.testing.assert_allclose(after, expected, atol=0.51)


@pytest.mark.parametrize(
    ("kind", "brighter"),
    [
        ("brightness-up", True),
        ("brightness-down", False),
        ("gamma-up", False),
        ("gamma-down", True),
    ],
)
def test_tones_go_the_stated_way(kind: str, brighter: bool) -> None:
    """The name says which way; for gamma it is the exponent that goes up."""
    assert (corrupt(flat(120), kind=kind, severity=1, seed=0)[0, 0] > 120) == brighter


def test_saturation_ends_in_grey() -> None:
    """Severity 5 has no colour left, and its grey is Pillow's."""
    image = generate("natural", split="test", items=1).images[0]
    after = corrupt(image, kind="saturation-down", severity=5, seed=0)
    expected = np.asarray(PillowImage.fromarray(image).convert("L"))
    np.testing.assert_allclose(after, np.dstack([expected] * 3), atol=1)


def test_cast_keeps_green() -> None:
    """A cast makes red and blue change in opposite ways; over seeds both ways occur."""
    casts = [
        residual(np.full((9, 9, 3), 128, "u1"), kind="colour-cast", severity=3, seed=s)
        for s in range(8)
    ]
    for cast in casts:
        assert not cast[..., 1].any()
        assert (cast[..., 0] == -cast[..., 2]).all()
    assert {np.sign(cast[0, 0, 0]) for cast in casts} == {-1.0, 1.0}


def test_stains_change_by_their_share() -> None:
    """Glass stays white; one pure stain's density rises by a share, the other's falls by it."""
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    image = np.full((3, 8, 3), 255, np.uint8)
    image[1:] = np.rint(255 * np.exp(-0.8 * np.array([[haematoxylin], [eosin]])))
    before = np.log(image[1:, 0, 1] / 255)
    for seed in range(4):
        after = corrupt(image, kind="stain-shift", severity=3, seed=seed)
        assert (after[0] == 255).all()
        shares = np.log(after[1:, 0, 1] / 255) / before - 1
        expected = strength("stain-shift", 3) * np.array([1, -1]) * np.sign(shares[0])
        np.testing.assert_allclose(shares, expected, atol=0.02)
