"""Frozen features, computed once per encoder and split and cached on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.core.documents import digest
from medtransfer.core.errors import InputError
from medtransfer.core.files import locked, replacing
from medtransfer.data.files.cache import cache_folder, cache_unwritable
from medtransfer.data.split import Split
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.memory import halve_on_oom


def frozen_features(encoder: Encoder, split: Split) -> NDArray[np.float32]:
    """Compute or load the embeddings of a whole split, (N, D), memory-mapped.

    The key of the cache holds encoder, input size, images, precision and device.

    Raises:
        InputError: When the encoder returns NaN for an image.
    """
    parts = [encoder.identity, encoder.weights_sha256, encoder.size, split.sha256]
    key = digest([*parts, encoder.precision, encoder.device.type])
    path = cache_folder() / "features" / f"{key}.npy"
    try:
        with locked(path):
            features = _read(path, shape=(len(split), encoder.width))
            if features is None:
                _write(path, _compute(encoder, split))
                features = _read(path, shape=(len(split), encoder.width))
    except OSError as error:
        raise cache_unwritable(path.parent, error) from None
    assert features is not None
    return features


def _compute(encoder: Encoder, split: Split) -> NDArray[np.float32]:
    features = np.empty((len(split), encoder.width), np.float32)
    encoder.eval()
    with torch.inference_mode():
        start = 0
        for batch in split.batches(encoder.batch):
            part = halve_on_oom(encoder, torch.from_numpy(batch))
            features[start : start + len(batch)] = part.cpu().numpy()
            start += len(batch)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise InputError(f"{encoder.card.name}: features of image {row} of {split.origin} are NaN")
    return features


def _read(path: Path, *, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        features: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return features if features.shape == shape else None


def _write(path: Path, features: NDArray[np.float32]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, features)
