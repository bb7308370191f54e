"""The ledger of a submission: an append-only file of records with their arrays beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from medtransfer.core.arrays import Archive, add_array
from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError, RunError, reason, unwritable
from medtransfer.core.files import leftovers, release, replace, replacing
from medtransfer.encoders.resolution import dump_card
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import ArrayRef, Record, read_records
from medtransfer.specs.replicates import FILE, read_rows, write_rows

Arrays = Mapping[str, NDArray[Any]]
_T = TypeVar("_T")


class _Busy(InputError):
    """Error for a folder that another run has locked."""


class Ledger:
    """The folder ``<out>/<encoder>`` of one evaluation. Only the driving process writes to it.

    The record of a cell is written last, after its arrays, with fsync. A cell with a record is
    therefore complete.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.folder = folder
        self.path = folder / "records.jsonl"
        self._card = folder / "encoder.yaml"
        self._replicates = folder / FILE
        self._rows: dict[str, NDArray[np.float32]] | None = None  # as read at the first append
        self._lock = FileLock(folder / "records.jsonl.lock")

    def read(self) -> list[Record]:
        """Read the records so far.

        Raises:
            InputError: For a line that is not a record.
        """
        try:
            return read_records(self.path)
        except InputError as error:
            if isinstance(error.__context__, OSError):
                raise
            raise InputError(
                f"{error}; if it is damaged, delete that line to run its cell again, or choose "
                "another --out"
            ) from None

    def open(self, card: EncoderCard, *, keep: Sequence[Record] | None = None) -> None:
        """Create the folder, lock it, and remove the incomplete files of a killed run.

        Args:
            card: Written as ``encoder.yaml``.
            keep: The only earlier records to keep; ``None`` keeps all.

        Raises:
            InputError: When the folder cannot be written, or another run is writing to it.
            RunError: When the disk is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self._rows = None
            if keep is not None:
                self._forget_others(keep)
            replace(self._card, dump_card(card).encode())
            self._drop_torn_line()
            for path in self._leftovers():
                path.unlink(missing_ok=True)
        except Timeout:
            raise _Busy(
                f"{self.folder}: another evaluation is writing there; wait for it, or choose "
                "another --out"
            ) from None
        except OSError as error:
            raise unwritable(f"--out: {self.folder}", error) from None

    def mend(self, card: EncoderCard) -> None:
        """Repair a finished folder whose writer was killed or whose card is damaged.

        Raises:
            InputError: When a repair is needed, and the folder cannot be written.
            RunError: When the disk is full.
        """
        try:
            EncoderCard.parse(read_yaml(self._card), origin=str(self._card))
        except InputError:
            whole = False
        else:
            content = self.path.read_bytes() if self.path.exists() else b""
            held = Path(self._lock.lock_file).exists()
            whole = content[-1:] in (b"", b"\n") and not self._leftovers() and not held
        if whole:
            return
        try:
            self.open(card)
        except _Busy:  # the other run repairs it
            return
        self.close()

    def close(self) -> None:
        """Release the lock."""
        release(self._lock)

    def append(self, record: Record, *, replicates: Arrays, predictions: Arrays) -> Record:
        """Write a finished cell.

        Args:
            record: The record, without its references to arrays.
            replicates: Bootstrap replicates of the primary metric, per test split.
            predictions: Probabilities or class ids per test split; empty to keep none.

        Returns:
            The record as written.

        Raises:
            RunError: When the disk is full or fails; earlier records are kept.
        """
        try:
            return self._append(record, replicates, predictions)
        except OSError as error:
            raise RunError(
                f"{self.folder}: {reason(error)}; {record.cell} was not saved, earlier "
                "records were; run the same command again to resume"
            ) from None

    def _append(self, record: Record, replicates: Arrays, predictions: Arrays) -> Record:
        cell = record.cell
        if replicates:
            key = cell.replicates_key
            earlier = self._read_rows(self.read()) if self._rows is None else self._rows
            self._rows = {**earlier, **_name(key, replicates)}
            write_rows(self._replicates, self._rows)
            reference = ArrayRef(file=FILE, key=key, sha256=_hash(replicates))
            record = record.model_copy(update={"replicates": reference})
        if predictions:
            name, key = cell.predictions_file, cell.predictions_key
            (self.folder / name).parent.mkdir(exist_ok=True)
            _extend(self.folder / name, _name(key, predictions))
            reference = ArrayRef(file=name, key=key, sha256=_hash(predictions))
            record = record.model_copy(update={"predictions": reference})
        with self.path.open("ab") as file:
            file.write(record.line().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return record

    def _read_rows(self, records: Sequence[Record]) -> dict[str, NDArray[np.float32]]:
        """Read the replicates of records, in either layout, without those of no record.

        Raises:
            InputError: When the file is damaged.
        """
        if not self._replicates.exists():
            return {}
        keys = {record.cell.replicates_key for record in records}
        rows = _read(self._replicates, read_rows)
        return {name: row for name, row in rows.items() if name.rpartition("/")[0] in keys}

    def _forget_others(self, keep: Sequence[Record]) -> None:
        """Remove all records but these, and the arrays of the others.

        The records go first: an array without a record is never read.
        """
        rows = self._read_rows(keep)
        if self.path.exists():
            replace(self.path, b"".join(record.line().encode() + b"\n" for record in keep))
        tasks = {record.task.name for record in keep}
        for path in self.folder.glob("predictions/*.npz"):
            if path.stem not in tasks:
                path.unlink()
        if rows:
            write_rows(self._replicates, rows)
        else:
            self._replicates.unlink(missing_ok=True)

    def _leftovers(self) -> list[Path]:
        """List the temporary files of a killed writer."""
        paths = [self._card, self.path, self._replicates, self.folder / "predictions" / "*.npz"]
        return [old for path in paths for old in leftovers(path)]

    def _drop_torn_line(self) -> None:
        """Remove an incomplete last line, whose cell was never finished."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)


def _name(key: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    return {f"{key}/{split}": array for split, array in arrays.items()}


def _hash(arrays: Arrays) -> str:
    """Compute the SHA-256 of the arrays' bytes, the same on every machine."""
    hasher = hashlib.sha256()
    for array in arrays.values():
        hasher.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return hasher.hexdigest()


def _extend(path: Path, arrays: Arrays) -> None:
    """Add arrays to an archive, and replace those of the same names.

    The other members are copied without decompression: compressing them again for every cell
    takes longer than a small cell.

    Raises:
        InputError: When the archive is damaged.
    """
    kept: dict[str, NDArray[Any]] | None = None
    if path.exists():
        with _read(path, Archive) as archive:
            if any(name in archive for name in arrays):  # left by a cell without a record
                kept = {name: archive.read(name) for name in archive.names if name not in arrays}
    with replacing(path) as temporary:
        if path.exists() and kept is None:
            shutil.copyfile(path, temporary)
        with zipfile.ZipFile(temporary, "a", zipfile.ZIP_DEFLATED) as target:
            for name, array in {**(kept or {}), **arrays}.items():
                add_array(target, name, array)


def _read(path: Path, reader: Callable[[Path], _T]) -> _T:
    """Read an archive before it is rewritten; a damaged one is kept for inspection.

    Raises:
        InputError: When it is damaged.
    """
    try:
        return reader(path)
    except InputError:
        raise InputError(
            f"{path}: damaged; choose another --out, or delete its encoder's folder"
        ) from None
