"""Results that are copies: of another cell, or of another encoder's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.documents import packaged
from medtransfer.core.errors import InputError
from medtransfer.specs.record import iterate_records
from medtransfer.verification.entries import LEDGER, Entry

__all__ = ["find_borrowed", "find_copies"]

Arrays = Mapping[str, NDArray[np.float32]]


def find_copies(entries: Mapping[Entry, Arrays]) -> Iterator[str]:
    """Cells of one task with the same replicates in every test split, which no two runs give."""
    first: dict[tuple[str, bytes], Entry] = {}
    for entry, arrays in entries.items():
        if _may_coincide(entry, arrays):
            continue
        content = b"".join(arrays[name].tobytes() for name in sorted(arrays))
        other = first.setdefault((entry.record.task.name, content), entry)
        if other is not entry:
            yield entry.fault(
                "replicates", f"a copy of those of {other.record.cell} in line {other.line}"
            )


def find_borrowed(entries: Mapping[Entry, Arrays], folder: Path) -> Iterator[str]:
    """Cells with the very replicates of an encoder of another name.

    Looked at are the submissions beside this one and the shipped ones. Predictions that were
    changed by so little that no two items changed places still have the same replicates.

    Args:
        entries: Replicates (B,) of each test split of the submission's records.
        folder: The submission.
    """
    others: dict[tuple[str, str], tuple[str, Path]] = {}
    for path in _list_others(folder):
        with suppress(InputError):  # what is wrong with another submission is not asked here
            for record in iterate_records(path):  # one at a time: others may have millions
                if record.replicates is not None and record.replicates.sha256 is not None:
                    key = record.task.name, record.replicates.sha256
                    others.setdefault(key, (record.encoder.name, path))
    for entry, arrays in entries.items():
        own = entry.record
        if own.replicates is None or _may_coincide(entry, arrays):
            continue
        name = own.encoder.name
        other, path = others.get((own.task.name, own.replicates.sha256 or ""), (name, folder))
        if other != name:
            yield entry.fault(
                "replicates",
                f"those of encoder '{other[:200]}' in {path.parent}, to the last bit; "
                "no two encoders give the same",
            )


def _list_others(folder: Path) -> list[Path]:
    """The ledgers of other submissions."""
    places = [folder.resolve().parent]
    with suppress(InputError):
        places.append(packaged("submissions").resolve())
    found = {path.resolve() for place in places for path in place.glob(f"*/{LEDGER}")}
    return sorted(found - {folder.resolve() / LEDGER})


def _may_coincide(entry: Entry, arrays: Arrays) -> bool:
    """Whether two honest runs can have the same replicates.

    Where all is one number, every item being right or every mask empty; and where a single
    neighbour gives classes instead of probabilities: an encoder that was trained on the task's own
    images has classes so far apart that two draws put every item into the same one.
    """
    if entry.record.adaptation == "knn" and entry.record.selected.get("neighbours") == 1:
        return True
    return all(len(np.unique(array)) == 1 for array in arrays.values())
