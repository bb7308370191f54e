"""Frozen features: computed once, and again when they are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medtransfer.core.errors import InputError
from medtransfer.data.split import Split
from medtransfer.encoders.encoder import check_encoder
from medtransfer.encoders.features import frozen_features
from tests.helpers.encoders import images, pooled, truncate, wrap


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def split_of(batch: Tensor, *, sha256: str = "data") -> Split:
    return Split(
        images=batch.numpy(),
        labels=np.zeros(len(batch), np.int64),
        ids=[str(row) for row in range(len(batch))],
        sha256=sha256,
        origin="data.npz",
    )


def test_frozen_features_are_computed_once(own_cache: Path) -> None:
    """Features are kept by encoder, size and data, and equal what the encoder returns."""
    encoder = wrap(lambda x: x[:, :, ::8, ::8].flatten(1))
    check_encoder(encoder)
    network: Any = encoder.network
    batch = images(130, size=32)  # more than one batch
    network.calls = 0
    first = frozen_features(encoder, split_of(batch))
    computed = network.calls
    assert computed == 2
    assert np.array_equal(frozen_features(encoder, split_of(batch)), first)
    assert network.calls == computed
    with torch.inference_mode():
        np.testing.assert_allclose(first, encoder(batch).numpy(), rtol=1e-5, atol=1e-6)

    calls = network.calls
    frozen_features(encoder, split_of(batch[:3], sha256="other"))
    assert network.calls == calls + 1
    encoder.identity = "another"
    frozen_features(encoder, split_of(batch[:3], sha256="other"))
    assert network.calls == calls + 2
    assert len(list(own_cache.glob("*.npy"))) == 3


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damaged_features_are_computed_again(
    own_cache: Path, damage: Callable[[Path], Any]
) -> None:
    """A damaged cache costs time, never a result."""
    encoder = wrap(pooled)
    check_encoder(encoder)
    batch = images(40, size=32)
    expected = np.array(frozen_features(encoder, split_of(batch)))
    (path,) = own_cache.glob("*.npy")
    damage(path)
    assert np.array_equal(frozen_features(encoder, split_of(batch)), expected)
    assert [file.name for file in own_cache.glob("*.npy")] == [path.name]


def test_features_of_nan_are_refused(own_cache: Path) -> None:
    """An image that breaks the encoder is named, and its features are not kept."""
    encoder = wrap(lambda x: pooled(x) / pooled(x).abs().sum(1, keepdim=True).ceil().clamp(max=1))
    encoder.width = 3
    batch = torch.zeros(3, 32, 32, dtype=torch.uint8)
    batch[:2] = 100
    encoder.mean.zero_()
    with pytest.raises(InputError, match=r"mine: features of image 2 of data\.npz are NaN"):
        frozen_features(encoder, split_of(batch))
    assert not list(own_cache.glob("*.npy"))
