"""`bench validate`: check cards and submissions without running anything. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medtransfer.data.duplicates import Duplicates, compare, fingerprint
from medtransfer.data.labels import count_labels
from medtransfer.data.store import Split, TaskData, open_task
from medtransfer.data.survey import survey_task
from medtransfer.ranking import load_submission, quantity
from medtransfer.specs.base import InputError, read_yaml, suggest
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.source import PhantomSource
from medtransfer.specs.task import (
    TaskCard,
    card_files,
    find_task,
    load_card,
    load_suites,
    load_tasks,
)
from medtransfer.verification.files import check_references

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
            yield from _check_task(load_card(path), path, data)
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
        yield from _check_task(cards[file.stem], file, data)
    if (path / "suites.yaml").is_file():
        for name, suite in load_suites(path / "suites.yaml").items():
            for task in suite.tasks:
                if find_task(task, cards) is None:
                    raise InputError(f"{path / 'suites.yaml'}: {name}: unknown task '{task}'")
        yield f"{path / 'suites.yaml'}: every task exists"


def _check_task(card: TaskCard, path: Path, data: Path | None) -> Iterator[str]:
    """One card; and its data where they are all there, for nothing is downloaded here."""
    survey = survey_task(card, data)
    if survey.absent and not survey.missing and data is not None:
        raise InputError(f"{path}: {survey.absent}")
    if not survey.ready:
        reason = survey.absent or (
            f"`bench data fetch` would download {quantity(survey.to_download, 'bytes')} or less"
        )
        yield f"{path}: task {card.name} (card only; {reason})"
        return
    task = open_task(card, folder=data, fetch=False, corruptions=False)
    yield f"{path}: task {card.name}"
    for name in card.sources:
        yield f"  {name}: {_describe(card, task.splits[name])}"
    train = fingerprint(task.splits["train"].images)
    if train.repeats:
        yield f"  note: train: {train.repeats} exact copies of other images of train"
    for name in card.sources:
        if name != "train":
            found = compare(train, fingerprint(task.splits[name].images))
            yield _report_duplicates(name, found, task)


def _describe(card: TaskCard, split: Split) -> str:
    """Size, prevalence and patients of a split."""
    shape = " x ".join(map(str, split.images.shape[1:]))
    some = split.images[:: max(1, len(split) // 100)]
    dark, light = np.percentile(some, [1, 99])
    text = f"{split.origin}: {len(split)} images of {shape}, values {dark:.0f} to {light:.0f}"
    if card.kind == "segmentation":
        assert split.masks is not None
        pixels = np.bincount(split.masks.reshape(-1), minlength=len(card.classes))
        shares = pixels / pixels.sum()
        text += "; pixels: "
    else:
        known = (split.labels >= 0).sum(axis=0)  # of each label, or of all items
        shares = np.array(count_labels(split.labels, len(card.classes))) / np.maximum(known, 1)
        text += "; "
    text += ", ".join(f"{c} {share:.1%}" for c, share in zip(card.classes, shares, strict=True))
    if (unknown := np.count_nonzero(split.labels < 0)) > 0:
        text += f"; {unknown / split.labels.size:.1%} of the labels unknown"
    if split.patients is not None:
        text += f"; {len(set(split.patients))} patients, in no other split"
    elif not isinstance(card.train, PhantomSource):
        text += "; patients unknown"
    return text


def _report_duplicates(name: str, found: Duplicates, task: TaskData) -> str:
    """Images that are in train too make a test easier than it looks."""
    if not (found.exact or found.near):
        return f"  {name}: no image of it is in train"
    train, other = task.splits["train"], task.splits[name]
    pairs = ", ".join(f"{train.ids[i]} = {other.ids[j]}" for i, j in found.examples)
    return (
        f"  note: {name}: {found.exact} exact and {found.near} near duplicates of images of train "
        f"(train item = {name} item: {pairs})"
    )


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
        for name, problem in check_references(record):
            raise InputError(f"{path}: {record.cell}: {name}: {problem}")
        for reference in (record.replicates, record.predictions):
            if reference is not None and not (path / reference.file).is_file():
                raise InputError(f"{path}: {record.cell}: {reference.file} is missing")
    if not (path / "records.jsonl").exists():
        yield f"{path}: encoder {submission.card.name}"
        return
    status = Counter(record.status for record in submission.records)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(status.items()))
    yield f"{path}: submission of encoder {submission.card.name}, {counts or 'no records'}"
