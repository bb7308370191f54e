"""`bench validate`: check cards and submissions without running anything. No torch.

Every file of a folder is checked: a problem of one is a line, and the next is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medtransfer.core.documents import read_yaml, refuse_links
from medtransfer.core.errors import InputError, suggest
from medtransfer.data.duplicates import Duplicates, compare, fingerprint
from medtransfer.data.labels import count_labels
from medtransfer.data.split import Split, TaskData
from medtransfer.data.store import open_task
from medtransfer.data.survey import survey_task
from medtransfer.ranking import PUBLISHED, load_published, quantity
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
from medtransfer.verification.arrays import Archives
from medtransfer.verification.entries import LEDGER, find_doubles, read_entries
from medtransfer.verification.files import (
    check_archives,
    check_files,
    check_references,
    check_scores,
    suggest_beside,
)


def validate(path: Path, *, data: Path | None = None) -> Iterator[str | InputError]:
    """Check a task card, an encoder card, a submission, or a folder of cards or submissions.

    Args:
        path: A card, or a folder of cards or submissions, by its name and content.
        data: Where the cards' files are; with it the data are checked against the cards too.

    Yields:
        One line for each file or submission that passes; for each that does not, its first
        problem.

    Raises:
        InputError: When there is nothing to check at ``path``.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder{suggest_beside(path)}")
    if path.is_file():
        if path.suffix not in (".yaml", ".yml"):
            raise InputError(f"{path}: a card (*.yaml) or a folder is expected")
        if path.name == "encoder.yaml":
            yield from _collect(_check_encoder(path))
        else:
            yield from _collect(_check_task(path, data))
    elif (path / "encoder.yaml").is_file():
        yield from _collect(_check_submission(path))
    elif any(path.glob("*/study.yaml")):
        yield from _collect(_check_published(path))
    elif folders := _list_submissions(path):
        yield from _check_submissions(path, folders)
    else:
        yield from _check_tasks(path, data)


def _collect(lines: Iterator[str]) -> Iterator[str | InputError]:
    """Yield the lines up to the first problem, and the problem."""
    try:
        yield from lines
    except InputError as error:
        yield error


def _list_submissions(path: Path) -> list[Path]:
    """List the submissions in a folder, even those that lack their card or their records."""
    files = (file for name in ("encoder.yaml", LEDGER) for file in path.glob(f"*/{name}"))
    return sorted({file.parent for file in files})


def _check_submissions(path: Path, folders: list[Path]) -> Iterator[str | InputError]:
    """Check each submission of a folder, and the published studies beside them."""
    for folder in folders:
        yield from _collect(_check_submission(folder))
    yield from _collect(_check_published(path / PUBLISHED))


def _check_published(path: Path) -> Iterator[str]:
    for published in load_published(path):
        name = published.study.name
        yield f"{path / name}: {len(published.records)} published results"


def _check_tasks(path: Path, data: Path | None) -> Iterator[str | InputError]:
    """Check every card of a folder, and the suites if they are there."""
    files = card_files(path)
    valid = True
    for file in files:
        for line in _collect(_check_task(file, data)):
            valid = valid and not isinstance(line, InputError)
            yield line
    for name, count in Counter(file.stem for file in files).items():
        if count > 1:
            twins = ", ".join(str(file) for file in files if file.stem == name)
            yield InputError(f"{path}: the name '{name}' is taken {count} times: {twins}")
    if valid and (path / "suites.yaml").is_file():
        yield from _collect(_check_suites(path / "suites.yaml", files))


def _check_suites(path: Path, files: list[Path]) -> Iterator[str]:
    cards = {file.stem: load_card(file) for file in files}
    for name, suite in load_suites(path).items():
        for task in suite.tasks:
            if find_task(task, cards) is None:
                raise InputError(f"{path}: {name}: unknown task '{task}'{suggest(task, cards)}")
    yield f"{path}: every task exists"


def _check_task(path: Path, data: Path | None) -> Iterator[str]:
    """Check a card, and its data if they are stored locally. Nothing is downloaded."""
    card = load_card(path)
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
            duplicates = compare(train, fingerprint(task.splits[name].images))
            yield _report_duplicates(name, duplicates, task)


def _describe(card: TaskCard, split: Split) -> str:
    """Describe size, prevalence and patients of a split."""
    shape = " x ".join(map(str, split.images.shape[1:]))
    some = split.images[:: max(1, len(split) // 100)]
    dark, light = np.percentile(some, [1, 99])
    text = f"{split.origin}: {len(split)} images of {shape}, values {dark:.0f} to {light:.0f}"
    if split.masks is not None:
        pixels = np.bincount(split.masks.reshape(-1), minlength=len(card.classes))
        shares = pixels / pixels.sum()
        text += "; pixels: "
    else:
        labelled = (split.labels >= 0).sum(axis=0)  # of each label, or of all items
        shares = np.array(count_labels(split.labels, len(card.classes))) / np.maximum(labelled, 1)
        text += "; "
    text += ", ".join(f"{c} {share:.1%}" for c, share in zip(card.classes, shares, strict=True))
    if (unknown := np.count_nonzero(split.labels < 0)) > 0:
        text += f"; {unknown / split.labels.size:.1%} of the labels unknown"
    if split.patients is not None:
        text += f"; {len(set(split.patients))} patients, in no other split"
    elif not isinstance(card.train, PhantomSource):
        text += "; patients unknown"
    return text


def _report_duplicates(name: str, duplicates: Duplicates, task: TaskData) -> str:
    """Report images that are in train too: they make a test easier than it looks."""
    if not (duplicates.exact or duplicates.near):
        return f"  {name}: no image is in train"
    train, other = task.splits["train"], task.splits[name]
    pairs = ", ".join(f"{train.ids[i]} = {other.ids[j]}" for i, j in duplicates.examples)
    return (
        f"  note: {name}: {duplicates.exact} exact and {duplicates.near} near duplicates of images "
        f"of train (train item = {name} item: {pairs})"
    )


def _check_encoder(path: Path) -> Iterator[str]:
    card = EncoderCard.parse(read_yaml(path), origin=str(path))
    yield from _note_domains(card)
    yield f"{path}: encoder {card.name}"


def _note_domains(card: EncoderCard) -> Iterator[str]:
    """Note domains that no task has: they decide the transfer relation."""
    domains = {task.domain for task in load_tasks().values()}
    for domain in sorted(set(card.pretraining.domains or ()) - domains):
        hint = suggest(domain, domains)
        yield f"note: pretraining.domains: no shipped task has domain '{domain}'{hint}"


def _check_submission(path: Path) -> Iterator[str]:
    """Check the card and all records of a submission, or an encoder's folder."""
    file = path / "encoder.yaml"
    if not (path / LEDGER).exists():
        yield from _check_encoder(file)
        return
    refuse_links(path)
    if not file.is_file():
        raise InputError(f"{path}: holds no encoder.yaml; a submission's folder needs its card")
    card = EncoderCard.parse(read_yaml(file), origin=str(file))
    yield from _note_domains(card)
    entries, problems = read_entries(path)
    problems += find_doubles(entries)
    for entry in entries:
        name = entry.record.encoder.name
        problems += entry.expect("encoder.name", name, card.name, source="encoder.yaml says")
        problems += [entry.fault(*fault) for fault in check_references(entry.record)]
    if not problems:
        problems += check_files(path, card, entries)
        with Archives(path) as archives:
            problems += check_archives(archives, entries)
        problems += check_scores(path, entries)
    if problems:
        more = f" (and {len(problems) - 1} more: `bench verify {path}`)" if problems[1:] else ""
        raise InputError(f"{path}: {problems[0]}{more}")
    counts = Counter(entry.record.status for entry in entries)
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    yield f"{path}: submission of encoder {card.name}, {text}"
