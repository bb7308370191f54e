"""Replicates of submissions, as tests read and change them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.specs.replicates import MEMBERS

__all__ = ["load_arrays", "save_arrays"]


def load_arrays(path: Path) -> dict[str, NDArray]:
    """Read an archive by numpy alone: its arrays, or the rows of its matrix by key."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    if set(arrays) == set(MEMBERS):
        return dict(zip(arrays["keys"].tolist(), arrays["values"], strict=True))
    return arrays


def save_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write an archive in place of another: rows as a matrix where that one held a matrix."""
    with np.load(path) as archive:
        matrix = set(archive.files) == set(MEMBERS)
    if matrix and len({array.shape for array in arrays.values()}) == 1:
        arrays = {"keys": np.array(list(arrays)), "values": np.stack(list(arrays.values()))}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
