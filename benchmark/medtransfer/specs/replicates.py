"""Bootstrap replicates of a submission: one file of rows, each with a key.

The file holds two arrays: ``values``, float32 (rows, B), and ``keys``, one text a row:
``task/budget/adaptation/draw/split``. The layout before had an array for each row, named as its
key; it is read as well.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.arrays import Archive, add_array
from medtransfer.core.errors import InputError
from medtransfer.core.files import replacing

FILE = "replicates.npz"
MEMBERS = ("keys", "values")

_LONGEST = 2**20  # bytes of a row
_LARGEST = 2**30  # bytes of the matrix, or of its keys


@dataclass(frozen=True)
class Matrix:
    """Rows of numbers, float32 (rows, B), and their keys."""

    keys: list[str]
    values: NDArray[np.float32]

    @cached_property
    def rows(self) -> dict[str, NDArray[np.float32]]:
        """Rows (B,) by key."""
        return dict(zip(self.keys, self.values, strict=True))


def read_rows(path: Path, *, suffix: str = "") -> dict[str, NDArray[np.float32]]:
    """Read the rows of either layout.

    Args:
        path: The file.
        suffix: Only rows whose keys end so.

    Returns:
        float32 (B,) by key.

    Raises:
        InputError: When the file cannot be read, is damaged, or holds anything but rows of numbers.
    """
    with Archive(path) as archive:
        matrix = read_matrix(archive)
        if matrix is None:
            names = [name for name in archive.names if name.endswith(suffix)]
            return {name: _read_row(archive, name) for name in names}
    return {key: row for key, row in matrix.rows.items() if key.endswith(suffix)}


def read_matrix(archive: Archive) -> Matrix | None:
    """Read the rows of an archive; ``None`` where it has the layout of an array a row.

    Raises:
        InputError: When it is damaged.
    """
    if not all(name in archive for name in MEMBERS):
        return None
    values = archive.read("values", dtype="<f4", shape=(None, None), at_most=_LARGEST)
    keys = archive.read("keys", shape=(len(values),), at_most=_LARGEST)
    if keys.dtype.kind != "U" or not values.size:
        raise InputError(
            f"{archive.origin}: keys: {keys.dtype} for values of shape {values.shape}; one text "
            "for each row of numbers is expected"
        )
    return Matrix(keys.tolist(), values)


def write_rows(path: Path, rows: Mapping[str, NDArray[np.float32]]) -> None:
    """Write rows in place of a file; it is either the old one or the whole new one.

    Args:
        path: The file.
        rows: At least one, float32 (B,) by key.
    """
    keys = sorted(rows)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # Not compressed: that would save a sixth of the size and double the time to read.
        add_array(archive, "values", np.stack([rows[key] for key in keys]).astype("<f4"))
        archive.compression = zipfile.ZIP_DEFLATED
        add_array(archive, "keys", np.array(keys))


def _read_row(archive: Archive, name: str) -> NDArray[np.float32]:
    row = archive.read(name, at_most=_LONGEST)
    if row.dtype.kind != "f" or row.ndim != 1 or not len(row):
        raise InputError(
            f"{archive.origin}: {name}: {row.dtype} of shape {row.shape}; a row of numbers is "
            "expected"
        )
    return row.astype(np.float32, copy=False)
