"""Submissions: an encoder's card and its records, read from folders. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtransfer.specs.base import InputError, read_yaml
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import Record, read_records
from medtransfer.specs.verification import Status, read_status

__all__ = ["PUBLISHED", "Submission", "load_submission", "load_submissions"]

PUBLISHED = "published"
"""The folder beside the submissions with results that others published."""


@dataclass(frozen=True)
class Submission:
    """What one encoder hands in: at most one record of a cell, protocol and task fingerprint.

    Attributes:
        card: The encoder's.
        records: The cells.
        folders: For each record the folder in which its arrays are; none at all where only the
            records are at hand.
        status: Whether `bench verify --rerun` passed on the files as they are.
    """

    card: EncoderCard
    records: tuple[Record, ...]
    folders: tuple[Path, ...] = ()
    status: Status = "declared"


def load_submissions(folders: Sequence[Path]) -> list[Submission]:
    """Read every ``<folder>/<encoder>/{encoder.yaml,records.jsonl}``, sorted by encoder.

    An encoder may stand in several folders, e.g. the shipped submissions and one's own results.
    Its records are then merged: the first settled record of a cell stands, in the order given.

    Raises:
        InputError: For a missing folder or card, a wrong record, records of another encoder than
            the card's, or one name that stands for two encoders.
    """
    parts: dict[str, list[tuple[Path, Submission]]] = {}
    for folder in folders:
        for path in _encoder_folders(folder):
            submission = load_submission(path)
            parts.setdefault(submission.card.name, []).append((path, submission))
    return [_merge(parts[name]) for name in sorted(parts)]


def _encoder_folders(folder: Path) -> list[Path]:
    """Folders of encoders: not hidden ones, Python's own, and those of published studies."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of submissions; say where they are with --submissions"
        )
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name != PUBLISHED and not path.name.startswith((".", "__"))
    )


def load_submission(path: Path) -> Submission:
    """Read one ``<encoder>/{encoder.yaml,records.jsonl}``.

    Raises:
        InputError: For a missing or wrong card, or a record that is wrong or another encoder's.
    """
    card_path = path / "encoder.yaml"
    if not card_path.is_file():
        raise InputError(f"{path}: holds no encoder.yaml; a submission's folder needs its card")
    card = EncoderCard.parse(read_yaml(card_path), origin=str(card_path))
    ledger = path / "records.jsonl"
    records = read_records(ledger)
    for record in records:
        if record.encoder.name != card.name:
            raise InputError(
                f"{ledger}: encoder.name: '{record.encoder.name}' in a record ({record.cell}), "
                f"but '{card.name}' in encoder.yaml"
            )
    return Submission(card, tuple(records), (path,) * len(records), read_status(path))


def _merge(parts: list[tuple[Path, Submission]]) -> Submission:
    """Join the parts of one encoder; the card of the first stands."""
    identities = {record.encoder.sha256: path for path, part in parts for record in part.records}
    if len(identities) > 1:
        paths = " and ".join(str(path) for path in dict.fromkeys(sorted(identities.values())))
        raise InputError(
            f"{paths}: encoder.sha256: records of different weights or preprocessing under the "
            f"one name '{parts[0][1].card.name}'; give each encoder its own name"
        )
    found = _first_settled((record, path) for path, part in parts for record in part.records)
    status: Status = (
        "verified" if all(part.status == "verified" for _, part in parts) else "declared"
    )
    return Submission(
        parts[0][1].card,
        tuple(record for record, _ in found),
        tuple(path for _, path in found),
        status,
    )


def _first_settled(records: Iterable[tuple[Record, Path]]) -> list[tuple[Record, Path]]:
    chosen: dict[tuple[object, ...], tuple[Record, Path]] = {}
    for record, path in records:
        key = (record.cell, record.protocol.fingerprint, record.task.fingerprint)
        if key not in chosen or not chosen[key][0].settled:
            chosen[key] = record, path
    return list(chosen.values())
