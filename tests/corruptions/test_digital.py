"""Pixelation and JPEG compression against independent accounts."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image as PillowImage

from medtransfer.corruptions import corrupt
from medtransfer.phantoms import generate
from tests.helpers.corruptions import SEVERITIES, chest, strength


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [48, 100])
def test_pixelation_makes_blocks(severity: int, size: int) -> None:
    """Every block is constant and the mean of what it covers; its size is a share of the width."""
    image = chest(size)
    after = corrupt(image, kind="pixelation", severity=severity, seed=0)
    rows = np.flatnonzero(np.r_[True, (np.diff(after.astype(int), axis=0) != 0).any(1), True])
    columns = np.flatnonzero(np.r_[True, (np.diff(after.astype(int), axis=1) != 0).any(0), True])
    blocks = round(size / (1 + size * strength("pixelation", severity)))
    assert len(rows) - 1 == len(columns) - 1 == blocks
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            block = after[top:bottom, left:right]
            assert block.min() == block.max()
            assert block[0, 0] == pytest.approx(image[top:bottom, left:right].mean(), abs=0.51)


@pytest.mark.parametrize("phantom", ["natural", "ct"])
def test_jpeg_is_pillows(phantom: str) -> None:
    """The image is what Pillow reads back after storing it at the stated quality."""
    image = generate(phantom, split="test", items=1).images[0]
    for severity in SEVERITIES:
        stored = io.BytesIO()
        PillowImage.fromarray(image).save(stored, "JPEG", quality=int(strength("jpeg", severity)))
        expected = np.asarray(PillowImage.open(stored))
        after = corrupt(image, kind="jpeg", severity=severity, seed=0)
        np.testing.assert_array_equal(after, expected)
