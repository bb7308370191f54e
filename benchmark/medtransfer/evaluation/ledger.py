"""The ledger of a submission: an append-only file of records with their arrays beside it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError, RunError, reason, unwritable
from medtransfer.core.files import replace, replacing
from medtransfer.encoders.resolution import dump_card
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import ArrayRef, Record, read_records

__all__ = ["Ledger"]

Arrays = Mapping[str, NDArray[Any]]

# Not compressed: they are noise, of which a sixth would be saved, and a board of hundreds of
# encoders takes twice as long to read them.
_REPLICATES = "replicates.npz"


class _Busy(InputError):
    """Another run is writing there."""


class Ledger:
    """The folder ``<out>/<encoder>`` of one evaluation. Only the driving process writes to it.

    A record is the last thing that is written of a cell, after its arrays, with fsync: a cell
    whose record is there is complete.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.folder = folder
        self.path = folder / "records.jsonl"
        self._card = folder / "encoder.yaml"
        self._lock = FileLock(folder / "records.jsonl.lock")

    def read(self) -> list[Record]:
        """The records so far.

        Raises:
            InputError: For a line that is not one.
        """
        try:
            return read_records(self.path)
        except InputError as error:
            if isinstance(error.__context__, OSError):
                raise
            raise InputError(
                f"{error}; if it is damaged, delete that line, and its cell is run again, or "
                "choose another --out"
            ) from None

    def open(self, card: EncoderCard, *, keep: Sequence[Record] | None = None) -> None:
        """Create the folder, take its lock, and mend what a killed writer left.

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
        """Make a finished folder whole, where a writer was killed or its card was damaged.

        Raises:
            InputError: When there is something to mend, and the folder cannot be written.
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
        except _Busy:  # which mends it
            return
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        with suppress(OSError):  # while it is held: later it might be somebody else's
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def append(self, record: Record, *, replicates: Arrays, predictions: Arrays) -> Record:
        """Write a finished cell.

        Args:
            record: The record, without its references to arrays.
            replicates: Bootstrap replicates of the primary metric, per test split.
            predictions: Probabilities or class ids per test split; empty to keep none.

        Returns:
            The record as written.

        Raises:
            RunError: When the disk does not take it; what is there stays as it is.
        """
        try:
            return self._append(record, replicates, predictions)
        except OSError as error:
            raise RunError(
                f"{self.folder}: {reason(error)}; {record.cell} was not written down, what ended "
                "before was. The same command goes on"
            ) from None

    def _append(self, record: Record, replicates: Arrays, predictions: Arrays) -> Record:
        cell = record.cell
        if replicates:
            key = f"{cell.task}/{cell.budget}/{cell.adaptation}/{cell.draw}"
            reference = self._add(_REPLICATES, key, replicates)
            record = record.model_copy(update={"replicates": reference})
        if predictions:
            key = f"{cell.budget}/{cell.adaptation}"
            reference = self._add(f"predictions/{cell.task}.npz", key, predictions)
            record = record.model_copy(update={"predictions": reference})
        with self.path.open("ab") as file:
            file.write(record.line().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return record

    def _add(self, name: str, key: str, arrays: Arrays) -> ArrayRef:
        """Add arrays to an archive, which is replaced as a whole and so never half-written."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        hasher = hashlib.sha256()
        for array in arrays.values():
            little = array.dtype.newbyteorder("<")  # the same on every machine
            hasher.update(array.astype(little).tobytes())
        _extend(path, {f"{key}/{split}": array for split, array in arrays.items()})
        return ArrayRef(file=name, key=key, sha256=hasher.hexdigest())

    def _forget_others(self, keep: Sequence[Record]) -> None:
        """Remove all records but these, and the arrays of tasks that have none left.

        The records go first: an array without a record is never read.
        """
        replicates = self.folder / _REPLICATES
        _names(replicates)
        if self.path.exists():
            replace(self.path, b"".join(record.line().encode() + b"\n" for record in keep))
        tasks = {record.task.name for record in keep}
        for path in self.folder.glob("predictions/*.npz"):
            if path.stem not in tasks:
                path.unlink()
        if replicates.exists():
            with np.load(replicates, allow_pickle=False) as archive:
                kept = {key: archive[key] for key in archive if key.split("/")[0] in tasks}
            replace(replicates, _pack(replicates, kept))

    def _leftovers(self) -> list[Path]:
        """What `replacing` had begun to write when its process was killed."""
        patterns = (".encoder.yaml.*", ".records.jsonl.*", ".*.npz.*", "predictions/.*.npz.*")
        return [path for pattern in patterns for path in self.folder.glob(pattern)]

    def _drop_torn_line(self) -> None:
        """Cut off a last line that has no end: its cell was never finished."""
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)


def _extend(path: Path, arrays: Arrays) -> None:
    """Add arrays to an archive, in place of those of the same names.

    The members that stay are copied as they are: reading and compressing them again for every
    cell took longer than the small cells themselves.

    Raises:
        InputError: When the archive is damaged.
    """
    known = _names(path) & {f"{name}.npy" for name in arrays}
    if known:  # those of a cell whose record was never written
        with np.load(path, allow_pickle=False) as loaded:
            replace(path, _pack(path, {**loaded, **arrays}))
        return
    with replacing(path) as temporary:
        if path.exists():
            shutil.copyfile(path, temporary)
        method = zipfile.ZIP_STORED if path.name == _REPLICATES else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(temporary, "a", method) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _names(path: Path) -> set[str]:
    """Members of an archive; none where there is no file.

    Raises:
        InputError: When it is damaged; zipfile would append to it, and hide what it still holds.
    """
    if not path.exists():
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except zipfile.BadZipFile:
        raise InputError(
            f"{path}: damaged; choose another --out, or delete its encoder's folder"
        ) from None


def _pack(path: Path, arrays: Arrays) -> bytes:
    """The bytes of an archive."""
    buffer = io.BytesIO()
    save = np.savez if path.name == _REPLICATES else np.savez_compressed
    # Numbers all. Before numpy 2.1, `allow_pickle` would be one more array of the archive.
    save(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
