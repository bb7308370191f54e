"""Check the files of a submission, and the references of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medtransfer.core.errors import InputError, suggest
from medtransfer.evaluation.failures import ERROR_LOG
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import ArrayRef, Record
from medtransfer.specs.replicates import FILE as REPLICATES
from medtransfer.specs.score import FILE as SCORES
from medtransfer.specs.score import read_scores
from medtransfer.specs.verification import FILE
from medtransfer.verification.arrays import (
    Archives,
    Wanted,
    list_predictions,
    list_replicates,
)
from medtransfer.verification.entries import LEDGER, Entry


def suggest_beside(path: Path) -> str:
    """End an error message about a missing path with a similar name beside it."""
    folder = path.resolve().parent
    names = [other.name for other in folder.iterdir()] if folder.is_dir() else []
    return suggest(path.name, [name for name in names if not name.startswith((".", "__"))])


def check_references(record: Record) -> Iterator[tuple[str, str]]:
    """Check that a record refers to the arrays that the ledger writes for it.

    Yields:
        The field and its problem.
    """
    for field, reference, wanted in (
        ("replicates", record.replicates, list_replicates(record)),
        ("predictions", record.predictions, list_predictions(record)),
    ):
        yield from _check_reference(field, reference, wanted)


def _check_reference(
    field: str, reference: ArrayRef | None, wanted: Wanted | None
) -> Iterator[tuple[str, str]]:
    if reference is None and wanted is not None:
        yield field, f"null; {wanted.file} is expected to hold them"
    elif reference is not None and wanted is None:
        yield field, "null is expected: a record of this status and draw has none"
    elif reference is not None and wanted is not None:
        if reference.file != wanted.file:
            yield f"{field}.file", f"{reference.file[:200]!r}; '{wanted.file}' is right"
        if reference.key != wanted.key:
            yield f"{field}.key", f"{reference.key[:200]!r}; '{wanted.key}' is right"
        if reference.sha256 is None:
            yield f"{field}.sha256", "null; the arrays' hash is needed"


def check_files(folder: Path, card: EncoderCard, entries: Sequence[Entry]) -> Iterator[str]:
    """Report files that do not belong to a submission."""
    wanted = [list_predictions(entry.record) for entry in entries]
    expected = {"encoder.yaml", LEDGER, REPLICATES, FILE, SCORES, ERROR_LOG, card.weights.path}
    expected |= {predictions.file for predictions in wanted if predictions is not None}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not (name in expected or (path.is_dir() and name == "predictions")):
            yield f"{name}: belongs to no record; a submission holds only what the ledger writes"


def check_scores(folder: Path, entries: Sequence[Entry]) -> Iterator[str]:
    """Report transferability scores that are invalid, or of another encoder.

    Their values are not recomputed: no rank depends on them.
    """
    try:
        scores = read_scores(folder)
    except InputError as error:
        yield str(error)
        return
    encoders = {entry.record.encoder for entry in entries}
    for record in scores:
        if encoders and record.encoder not in encoders:
            yield (
                f"{SCORES}: {record.score} of {record.task.name}: encoder: "
                f"'{record.encoder.name}' {record.encoder.sha256[:12]}, the encoder of no record"
            )


def check_archives(
    archives: Archives, entries: Sequence[Entry], *, others: bool = True
) -> Iterator[str]:
    """Archives that lack arrays of records or, where ``others`` is set, hold arrays of none."""
    needed: dict[str, set[str]] = {}
    for entry in entries:
        for wanted in (list_replicates(entry.record), list_predictions(entry.record)):
            if wanted is not None:
                needed.setdefault(wanted.file, set()).update(wanted.names)
    for file, names in needed.items():
        try:
            members = archives.members(file)
        except InputError as error:
            yield str(error)
            continue
        for name in sorted(names - members.keys()):
            yield f"{file}: {name}: is missing, but a record needs it"
        for name in sorted(members.keys() - names if others else ()):
            yield f"{file}: {name[:200]!r}: belongs to no record; delete the array"
        for name in sorted(name for name, count in members.items() if count > 1):
            yield f"{file}: {name[:200]!r}: occurs {members[name]} times; keep one"
