"""The archives of a submission, read without trusting them: nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from medtransfer.core.errors import InputError
from medtransfer.data.files.archives import DAMAGED_ARRAYS
from medtransfer.specs.record import Record
from medtransfer.specs.split_name import SplitName

__all__ = ["REPLICATES", "Archives", "Wanted", "list_predictions", "list_replicates"]

REPLICATES = "replicates.npz"

_AT_MOST = 2**31  # bytes of an array whose shape nothing tells


class Archives:
    """The archives of one submission, each opened once."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is opened yet."""
        self.folder = folder
        self._stack = ExitStack()
        self._open: dict[str, zipfile.ZipFile] = {}

    def __enter__(self) -> Archives:
        """Nothing is opened yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the archives."""
        self._stack.close()

    def members(self, file: str) -> Counter[str]:
        """How often each array is there, without ``.npy``.

        Raises:
            InputError: When the archive is missing or damaged.
        """
        return Counter(name.removesuffix(".npy") for name in self._archive(file).namelist())

    def read(
        self, file: str, name: str, *, dtype: DTypeLike, shape: tuple[int | None, ...]
    ) -> NDArray[Any]:
        """Read one array, no more of it than it should have.

        Args:
            file: Path of the archive inside the submission.
            name: Name of the array.
            dtype: What it must be made of.
            shape: What it must have; ``None`` fits any length.

        Raises:
            InputError: When it is missing, damaged, or another kind of array.
        """
        where = f"{file}: {name}"
        archive = self._archive(file)
        try:
            with archive.open(f"{name}.npy") as member:
                if npy.read_magic(member) != (1, 0):
                    raise ValueError("no array as numpy writes it")
                found, fortran, kind = npy.read_array_header_1_0(member)
                fits = len(found) == len(shape) and all(
                    right in (None, length) for length, right in zip(found, shape, strict=True)
                )
                if kind.hasobject:
                    raise InputError(f"{where}: holds pickled objects; plain numbers are expected")
                if kind != np.dtype(dtype) or not fits:
                    sizes = " x ".join("any" if length is None else str(length) for length in shape)
                    raise InputError(
                        f"{where}: {kind} of shape {found}; {np.dtype(dtype)} of {sizes} is "
                        "expected"
                    )
                size = int(np.prod(found, dtype=object)) * kind.itemsize
                if size > _AT_MOST:
                    raise ValueError(f"shape {found} is larger than 2 GiB")
                content = member.read(size)
                if len(content) != size or member.read(1):  # the end, where the CRC is checked
                    raise ValueError(f"not the bytes of shape {found}")
        except KeyError:
            raise InputError(f"{where}: is missing, but a record needs it") from None
        except DAMAGED_ARRAYS as error:
            raise InputError(f"{where}: cannot be read, damaged: {error}") from None
        array: NDArray[Any] = np.frombuffer(content, kind)
        array = array.reshape(found[::-1]).T if fortran else array.reshape(found)
        return array

    def _archive(self, file: str) -> zipfile.ZipFile:
        if file not in self._open:
            try:
                archive = zipfile.ZipFile(self.folder / file)
            except FileNotFoundError:
                raise InputError(f"{file}: is missing, but a record needs it") from None
            except DAMAGED_ARRAYS as error:
                raise InputError(f"{file}: cannot be read, damaged: {error}") from None
            self._open[file] = self._stack.enter_context(archive)
        return self._open[file]


class Wanted(NamedTuple):
    """The arrays that a record needs, as the ledger writes them, one a test split."""

    file: str
    key: str
    splits: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return [f"{self.key}/{split}" for split in self.splits]


def list_replicates(record: Record) -> Wanted | None:
    """Where the replicates of a record stand; ``None`` where it has none."""
    if record.status != "ok":
        return None
    families = tuple(dict.fromkeys(SplitName.parse(name).family for name in record.metrics))
    key = f"{record.task.name}/{record.budget}/{record.adaptation}/{record.draw}"
    return Wanted(REPLICATES, key, families)


def list_predictions(record: Record) -> Wanted | None:
    """Where the predictions of a record stand: of draw 0 only, and not of corruptions."""
    if record.status != "ok" or record.draw != 0:
        return None
    splits = tuple(name for name in record.metrics if not SplitName.parse(name).corrupted)
    file = f"predictions/{record.task.name}.npz"
    return Wanted(file, f"{record.budget}/{record.adaptation}", splits)
