"""`bench score`: transferability scores of encoders on tasks, stored beside their records."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filelock import FileLock

from medtransfer.core.documents import digest, read_yaml
from medtransfer.core.errors import InputError, unwritable
from medtransfer.core.files import replace
from medtransfer.core.progress import JobProgress
from medtransfer.data.files.cache import cache_folder, data_folder
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.encoder import Encoder, resolve_device
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.resolution import EncoderSource, dump_card, resolve_encoder
from medtransfer.encoders.source_head import find_source_head, head_identity
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol, load_protocol
from medtransfer.specs.record import iterate_records
from medtransfer.specs.score import FILE, ScoreRecord, read_scores
from medtransfer.specs.task import Kind, TaskCard, find_task, load_tasks, resolve_tasks
from medtransfer.transferability.inputs import ScoreInputs
from medtransfer.transferability.options import Request
from medtransfer.transferability.registry import Score, choose_scores
from medtransfer.transferability.scoring import (
    Planned,
    plan_scores,
    plan_source,
    plan_sweep,
    score_all,
)


@dataclass(frozen=True)
class Scoring:
    """A checked request.

    Attributes:
        request: The request.
        protocol: Its protocol.
        encoders: The resolved encoders, not yet built.
        data: The tasks, decoded.
        scores: The scores to compute.
        sources: Tasks that encoders were pre-trained on, if their accuracy is requested.
        notes: Notes for the user, one line each.
    """

    request: Request
    protocol: Protocol
    encoders: list[EncoderSource]
    data: dict[str, TaskData]
    scores: list[Score]
    sources: dict[str, TaskData] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prepare(
    request: Request, progress: Progress = SILENT, *, with_sources: bool = False
) -> Scoring:
    """Check a request. Nothing is written but downloads and decoded data.

    Args:
        request: The options.
        progress: Callbacks of downloads and decoding.
        with_sources: Whether tasks that encoders were pre-trained on are scored, too.

    Raises:
        InputError: For the first thing that is wrong with it.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    protocol = load_protocol(request.protocol)
    scores = choose_scores(request.scores)
    if request.sweep and "robustness" not in {score.name for score in scores}:
        raise InputError("--sweep: only for the score robustness; add --score robustness")
    if not request.encoders:
        raise InputError("--encoder: name at least one, or --trajectory")
    cards = resolve_tasks(
        names=list(request.tasks), suite=request.suite, folder=request.task_folder
    )
    notes = [
        f"{name}: nothing to compute: it is of kind {card.kind}, and {_list_kinds(scores)}"
        for name, card in cards.items()
        if not any(card.kind in score.kinds for score in scores)
    ]
    if len(notes) == len(cards):
        raise InputError(f"--score: {notes[0]}")
    encoders = [resolve_encoder(encoder) for encoder in request.encoders]
    names = [located.card.name for located in encoders]
    for place, name in enumerate(names):
        if request.encoders[place] in request.encoders[:place]:
            raise InputError(f"--encoder: {request.encoders[place]}: is given twice")
        if names.count(name) > 1:
            raise InputError(
                f"two encoders are called '{name}'; the name decides the folder of scores, so "
                "score each into an --out of its own"
            )
    if request.out.exists() and not request.out.is_dir():
        raise InputError(f"--out: {request.out} is a file; a folder is expected")
    for located in encoders:
        _check_folder(request.out / located.card.name, located)
    folder = data_folder(request.data)
    data = {name: _open(card, folder, progress) for name, card in cards.items()}
    sources: dict[str, TaskData] = {}
    all_cards = {**load_tasks(), **(load_tasks(request.task_folder) if request.task_folder else {})}
    for name in _sources(encoders) if with_sources else ():
        card = find_task(name, all_cards)
        try:
            if card is None:
                raise InputError(f"{name}: unknown task; pass the folder of its card with --tasks")
            sources[name] = data.get(name) or _open(card, folder, progress)
        except InputError as error:
            notes.append(f"accuracy on the source not computed: {error}")
    return Scoring(request, protocol, encoders, data, scores, sources, tuple(notes))


def _list_kinds(scores: Sequence[Score]) -> str:
    return "; ".join(f"{score.name} is for {', '.join(score.kinds)}" for score in scores)


def _open(card: TaskCard, folder: Path | None, progress: Progress) -> TaskData:
    """Open a task without corruptions, which no score uses."""
    return open_task(card, folder=folder, progress=progress, corruptions=False)


def _sources(encoders: Sequence[EncoderSource]) -> list[str]:
    """List the tasks that encoders were pre-trained on."""
    runs = [located.card.pretraining.run for located in encoders]
    return list(dict.fromkeys(name for run in runs if run is not None for name in run.tasks))


def find_trajectory(folder: Path) -> list[Path]:
    """List the checkpoints of ``bench pretrain --checkpoints`` in a folder, by epoch.

    Raises:
        InputError: When there are fewer than two.
    """
    by_epoch: dict[int, Path] = {}
    for path in (folder, *sorted(folder.glob("checkpoints/epoch-*"))):
        file = path / "encoder.yaml"
        if file.is_file():
            run = EncoderCard.parse(read_yaml(file), origin=str(file)).pretraining.run
            if run is not None:  # the encoder itself is the last checkpoint
                by_epoch[run.steps] = path
    if not folder.is_dir():
        raise InputError(f"--trajectory: {folder}: no such folder")
    if len(by_epoch) < 2:
        raise InputError(
            f"--trajectory: {folder}: holds {len(by_epoch) or 'no'} checkpoint"
            f"{'' if len(by_epoch) == 1 else 's'} of bench pretrain --checkpoints; two or more "
            "are needed"
        )
    return [by_epoch[steps] for steps in sorted(by_epoch)]


def _check_folder(folder: Path, located: EncoderSource) -> None:
    """Refuse to add scores to the folder of another encoder.

    Raises:
        InputError: When the folder holds another encoder, or cannot be written.
        RunError: When the disk is full.
    """
    name = located.card.name
    card = folder / "encoder.yaml"
    if card.exists():
        EncoderCard.parse(read_yaml(card), origin=str(card))
    first = next(iterate_records(folder / "records.jsonl"), None)
    identities = {first.encoder.sha256} if first is not None else set()
    identities |= {record.encoder.sha256 for record in read_scores(folder)}
    if identities - {located.identity}:
        raise InputError(
            f"{folder}: made with another encoder of the name {name} (weights, architecture or "
            "input differ); choose another --out"
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"--out: {existing} is a file; a folder is expected")
    if not os.access(existing, os.W_OK):
        raise InputError(f"--out: {existing} cannot be written: permission denied")


def score(scoring: Scoring, progress: JobProgress | None = None) -> list[ScoreRecord]:
    """Compute missing scores, and write each one when it is done.

    Returns:
        The requested scores of every encoder and task.

    Raises:
        RunError: When a score fails in another way than by having no value.
    """
    progress = progress or JobProgress()
    records: list[ScoreRecord] = []
    tasks = {**scoring.data, **scoring.sources}
    progress.begin(len(scoring.encoders) * len(tasks), unit="sets of scores")
    try:
        for located in scoring.encoders:
            work = _Work(scoring, located)
            for name, data in tasks.items():
                task_records, made = work.of(name, data)
                records += task_records
                kept = (
                    f", {len(task_records) - made} kept from before"
                    if len(task_records) > made
                    else ""
                )
                progress.finished(f"{located.card.name}, {name}: {made} new{kept}")
    finally:
        progress.end()
    return records


class _Work:
    """Scores of one encoder, which is built when the first score is missing."""

    def __init__(self, scoring: Scoring, located: EncoderSource) -> None:
        self.scoring, self.located = scoring, located
        self.folder = scoring.request.out / located.card.name
        self.encoder: Encoder | None = None

    def of(self, name: str, data: TaskData) -> tuple[list[ScoreRecord], int]:
        """Return the requested records of one task, and how many of them are new."""
        planned = self._plan(name, data.card.kind)
        prefix = (self.located.identity, name, data.fingerprint, self.scoring.protocol.name)
        wanted = {(*prefix, plan.fingerprint): plan for plan in planned}
        stored = {record.key: record for record in read_scores(self.folder)}
        if missing := [plan for key, plan in wanted.items() if key not in stored]:
            encoder, protocol = self._build(), self.scoring.protocol
            find_head = partial(find_source_head, self.located, encoder)
            material = ScoreInputs(encoder, data, protocol.scores, find_head=find_head)
            for record in score_all(material, missing, protocol):
                _append(self.folder, self.located.card, record)
                stored[record.key] = record
        return [stored[key] for key in wanted], len(missing)

    def _plan(self, name: str, kind: Kind) -> list[Planned]:
        scoring, planned = self.scoring, []
        if name in scoring.data:
            head = head_identity(self.located)
            planned = plan_scores(scoring.scores, scoring.protocol, kind=kind, head=head)
            if scoring.request.sweep:
                [robust] = [score for score in scoring.scores if score.name == "robustness"]
                planned += plan_sweep(robust, scoring.protocol)
        run = self.located.card.pretraining.run
        if name in scoring.sources and run is not None and name in run.tasks:
            planned.append(plan_source(scoring.protocol))
        return planned

    def _build(self) -> Encoder:
        if self.encoder is None:
            request, protocol = self.scoring.request, self.scoring.protocol
            device = resolve_device(request.device)
            self.encoder = build_encoder(self.located, max_size=protocol.max_size, device=device)
        return self.encoder


def _append(folder: Path, card: EncoderCard, record: ScoreRecord) -> None:
    """Append a line to an encoder's scores; write its card if missing.

    Several processes may do so at a time. Their lock is outside the submission's folder, where it
    would remain: deleting the file of a lock breaks it for those that wait.

    Raises:
        InputError: When the folder cannot be written.
    """
    path = folder / FILE
    lock = cache_folder() / "locks" / f"{digest(str(path.resolve()))}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not (folder / "encoder.yaml").exists():
                replace(folder / "encoder.yaml", dump_card(card).encode())
            if record.key in {stored.key for stored in read_scores(folder)}:
                return
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]  # without the torn line of a killed writer
            replace(path, whole + record.line().encode() + b"\n")
    except OSError as error:
        raise unwritable(f"--out: {folder}", error) from None
