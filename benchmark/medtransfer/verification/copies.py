"""Results copied from another cell or from another encoder."""

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

Arrays = Mapping[str, NDArray[np.float32]]


def find_copies(entries: Mapping[Entry, Arrays]) -> Iterator[str]:
    """Find cells of one task with equal replicates in every test split, which no two runs give."""
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
    """Find cells with the replicates of an encoder of another name.

    The comparison covers the submissions beside this one and the shipped ones. It also detects
    altered predictions if the changes keep the order of the items, and so the replicates.

    Args:
        entries: Replicates (B,) of each test split of the submission's records.
        folder: The submission.
    """
    others: dict[tuple[str, str], tuple[str, Path]] = {}
    for path in _list_others(folder):
        with suppress(InputError):  # do not report problems of other submissions
            for record in iterate_records(path):  # one at a time: others may have millions
                if record.replicates is not None and record.replicates.sha256 is not None:
                    key = record.task.name, record.replicates.sha256
                    others.setdefault(key, (record.encoder.name, path))
    for entry, arrays in entries.items():
        record = entry.record
        if record.replicates is None or _may_coincide(entry, arrays):
            continue
        name = record.encoder.name
        key = record.task.name, record.replicates.sha256 or ""
        other, path = others.get(key, (name, folder))
        if other != name:
            yield entry.fault(
                "replicates",
                f"identical to those of encoder '{other[:200]}' in {path.parent}; "
                "no two encoders give equal replicates",
            )


def _list_others(folder: Path) -> list[Path]:
    """List the ledgers of other submissions."""
    places = [folder.resolve().parent]
    with suppress(InputError):
        places.append(packaged("submissions").resolve())
    ledgers = {path.resolve() for place in places for path in place.glob(f"*/{LEDGER}")}
    return sorted(ledgers - {folder.resolve() / LEDGER})


def _may_coincide(entry: Entry, arrays: Arrays) -> bool:
    """Check whether two honest runs can have equal replicates.

    They can if all replicates are one number: every prediction is correct, or every mask empty.
    They also can with a single neighbour, which gives classes instead of probabilities: with an
    encoder trained on the task's own images, two draws may predict the same class everywhere.
    """
    if entry.record.adaptation == "knn" and entry.record.selected.get("neighbours") == 1:
        return True
    return all(len(np.unique(array)) == 1 for array in arrays.values())
