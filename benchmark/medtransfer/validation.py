"""`bench validate`: check cards and submissions without running anything. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medtransfer.data.store import open_task
from medtransfer.ranking import load_submission
from medtransfer.specs.base import InputError, read_yaml, suggest
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.task import TaskCard, card_files, load_card, load_suites, load_tasks

__all__ = ["validate"]


def validate(path: Path, *, data: Path | None = None) -> Iterator[str]:
    """Check a task card, an encoder card, a folder of task cards, or a submission.

    Args:
        path: What to check; what it is follows from its name and content.
        data: Where the cards' files are; with it the data are checked against the cards too.

    Yields:
        One line for each thing that is right.

    Raises:
        InputError: For the first thing that is wrong.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix not in (".yaml", ".yml"):
            raise InputError(f"{path}: a card (*.yaml) or a folder is expected")
        if path.name == "encoder.yaml":
            card = EncoderCard.parse(read_yaml(path), origin=str(path))
            yield from _check_encoder(card)
            yield f"{path}: encoder {card.name}"
        else:
            yield _check_task(load_card(path), path, data)
    elif (path / "encoder.yaml").is_file():
        yield from _check_submission(path)
    else:
        yield from _check_folder(path, data)


def _check_folder(path: Path, data: Path | None) -> Iterator[str]:
    """Every card of a folder, and the suites if they are there."""
    files = card_files(path)
    for name, count in Counter(file.stem for file in files).items():
        if count > 1:
            twins = ", ".join(str(file) for file in files if file.stem == name)
            raise InputError(f"{path}: the name '{name}' is taken {count} times: {twins}")
    cards = {file.stem: load_card(file) for file in files}
    for file in files:
        yield _check_task(cards[file.stem], file, data)
    if (path / "suites.yaml").is_file():
        for suite, tasks in load_suites().items():
            for name in tasks:
                if name not in cards:
                    raise InputError(f"{path / 'suites.yaml'}: {suite}: unknown task '{name}'")
        yield f"{path / 'suites.yaml'}: every task exists"


def _check_task(card: TaskCard, path: Path, data: Path | None) -> str:
    """One card, and its data where they can be opened."""
    if card.kind != "multiclass":
        return f"{path}: task {card.name} (card only: {card.kind} data cannot be opened yet)"
    if data is None and any("npz" in source.model_dump() for source in card.splits.values()):
        return f"{path}: task {card.name} (card only; add --data DIR to check the data)"
    task = open_task(card, folder=data)
    sizes = ", ".join(f"{name} {len(split)}" for name, split in task.splits.items())
    return f"{path}: task {card.name} ({sizes})"


def _check_encoder(card: EncoderCard) -> Iterator[str]:
    """Domains decide the transfer relation, so one that no task has is worth a word."""
    known = {task.domain for task in load_tasks().values()}
    for domain in sorted(set(card.pretraining.domains or ()) - known):
        yield f"note: pretraining.domains: no shipped task has domain '{domain}'" + suggest(
            domain, known
        )


def _check_submission(path: Path) -> Iterator[str]:
    """The card, every record, and that they belong together; or an encoder's own folder."""
    submission = load_submission(path)
    yield from _check_encoder(submission.card)
    for record in submission.records:
        for reference in (record.replicates, record.predictions):
            if reference is not None and not (path / reference.file).is_file():
                raise InputError(f"{path}: {record.cell}: {reference.file} is missing")
    if not (path / "records.jsonl").exists():
        yield f"{path}: encoder {submission.card.name}"
        return
    status = Counter(record.status for record in submission.records)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(status.items()))
    yield f"{path}: submission of encoder {submission.card.name}, {counts or 'no records'}"
