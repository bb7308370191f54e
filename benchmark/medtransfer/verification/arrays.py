"""Archives of a submission, and the arrays that a record needs in them."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from numpy.typing import DTypeLike, NDArray

from medtransfer.core.arrays import Archive, expect_array
from medtransfer.core.errors import InputError
from medtransfer.specs.record import Record
from medtransfer.specs.replicates import FILE as REPLICATES
from medtransfer.specs.replicates import MEMBERS, Matrix, read_matrix
from medtransfer.specs.split_name import SplitName


class Archives:
    """The archives of one submission, each opened once."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is opened yet."""
        self.folder = folder
        self._stack = ExitStack()
        self._open: dict[str, tuple[Archive, Matrix | None]] = {}

    def __enter__(self) -> Archives:
        """Return the archives; each is opened on its first use."""
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
        """Count the entries of each name: arrays, or rows of a matrix.

        Raises:
            InputError: When the archive is missing or damaged.
        """
        archive, matrix = self._archive(file)
        members = Counter(name.removesuffix(".npy") for name in archive.members)
        if matrix is not None:
            members = members - Counter(MEMBERS) + Counter(matrix.keys)
        return members

    def read(
        self, file: str, name: str, *, dtype: DTypeLike, shape: tuple[int | None, ...]
    ) -> NDArray[Any]:
        """Read one array, or row of a matrix, after a check of its type and shape.

        Args:
            file: Path of the archive inside the submission.
            name: Name of the array.
            dtype: Its expected type.
            shape: Its expected shape; ``None`` takes any length.

        Raises:
            InputError: When it is missing, damaged, or another kind of array.
        """
        archive, matrix = self._archive(file)
        if name not in (archive if matrix is None else matrix.rows):
            raise InputError(f"{file}: {name}: is missing, but a record needs it")
        if matrix is None:
            return archive.read(name, dtype=dtype, shape=shape)
        expect_array(f"{file}: {name}", row := matrix.rows[name], dtype, shape)
        return row

    def _archive(self, file: str) -> tuple[Archive, Matrix | None]:
        if file not in self._open:
            if not (self.folder / file).exists():
                raise InputError(f"{file}: is missing, but a record needs it")
            archive = self._stack.enter_context(Archive(self.folder / file, origin=file))
            self._open[file] = archive, read_matrix(archive)
        return self._open[file]


class Wanted(NamedTuple):
    """Arrays that a record needs, one a test split, as the ledger writes them."""

    file: str
    key: str
    splits: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return [f"{self.key}/{split}" for split in self.splits]


def list_replicates(record: Record) -> Wanted | None:
    """List the replicates that a record needs; ``None`` where it has none."""
    if record.status != "ok":
        return None
    families = tuple(dict.fromkeys(SplitName.parse(name).family for name in record.metrics))
    return Wanted(REPLICATES, record.cell.replicates_key, families)


def list_predictions(record: Record) -> Wanted | None:
    """List the predictions that a record needs: of draw 0 only, and not of corruptions."""
    if record.status != "ok" or record.draw != 0:
        return None
    splits = tuple(name for name in record.metrics if not SplitName.parse(name).corrupted)
    return Wanted(record.cell.predictions_file, record.cell.predictions_key, splits)
