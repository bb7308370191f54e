"""`bench score`: transferability scores of encoders on tasks, stored beside their records."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property, partial
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
        encoders: Resolved encoders, not yet built.
        data: The tasks, decoded.
        scores: Scores to compute.
        sources: Tasks of pre-training, to measure the encoders' accuracy on them.
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
    """Check a request. Writes only downloads and decoded data."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    protocol = load_protocol(request.protocol)
    scores = choose_scores(request.scores)
    if request.sweep and "robustness" not in {score.name for score in scores}:
        raise InputError("--sweep: needs the score robustness, which --score leaves out")
    if not request.encoders:
        raise InputError("--encoder: name at least one, or --trajectory")
    cards = resolve_tasks(
        names=list(request.tasks), suite=request.suite, folder=request.task_folder
    )
    kinds = "; ".join(f"{score.name} is for {', '.join(score.kinds)}" for score in scores)
    notes = [
        f"{name}: nothing to compute for a task of kind {card.kind}: {kinds}"
        for name, card in cards.items()
        if not any(card.kind in score.kinds for score in scores)
    ]
    if len(notes) == len(cards):
        raise InputError(f"--score: {notes[0]}")
    encoders = [resolve_encoder(encoder) for encoder in request.encoders]
    names = [source.card.name for source in encoders]
    for index, name in enumerate(names):
        if request.encoders[index] in request.encoders[:index]:
            raise InputError(f"--encoder: {request.encoders[index]}: given twice")
        if names.count(name) > 1:
            raise InputError(
                f"two encoders are called '{name}', which also names their folder; score them "
                "separately, each with its own --out"
            )
    if request.out.exists() and not request.out.is_dir():
        raise InputError(f"--out: {request.out} is a file; a folder is expected")
    for source in encoders:
        _check_folder(request.out / source.card.name, source)
    folder = data_folder(request.data)

    def open_data(card: TaskCard) -> TaskData:
        return open_task(card, folder=folder, progress=progress, corruptions=False)

    data = {name: open_data(card) for name, card in cards.items()}
    sources: dict[str, TaskData] = {}
    known = {**load_tasks(), **(load_tasks(request.task_folder) if request.task_folder else {})}
    runs = [source.card.pretraining.run for source in encoders] if with_sources else []
    for name in dict.fromkeys(name for run in runs if run is not None for name in run.tasks):
        card = find_task(name, known)
        try:
            if card is None:
                raise InputError(f"{name}: unknown task; pass the folder of its card by --tasks")
            sources[name] = data.get(name) or open_data(card)
        except InputError as error:
            notes.append(f"accuracy on the source is missing: {error}")
    return Scoring(request, protocol, encoders, data, scores, sources, tuple(notes))


def find_trajectory(folder: Path) -> list[Path]:
    """List the encoders that ``bench pretrain --checkpoints`` wrote to a folder, by step."""
    checkpoints: dict[int, Path] = {}
    for path in (folder, *sorted(folder.glob("checkpoints/epoch-*"))):
        file = path / "encoder.yaml"
        if file.is_file():
            run = EncoderCard.parse(read_yaml(file), origin=str(file)).pretraining.run
            if run is not None:  # the last checkpoint is the encoder itself
                checkpoints[run.steps] = path
    if not folder.is_dir():
        raise InputError(f"--trajectory: {folder}: no such folder")
    if (count := len(checkpoints)) < 2:
        raise InputError(
            f"--trajectory: {folder}: holds {count or 'no'} checkpoint{'' if count == 1 else 's'} "
            "of bench pretrain --checkpoints; at least two are needed"
        )
    return [checkpoints[steps] for steps in sorted(checkpoints)]


def _check_folder(folder: Path, source: EncoderSource) -> None:
    """Refuse a folder with results of another encoder, or that cannot be written."""
    card = folder / "encoder.yaml"
    if card.exists():
        EncoderCard.parse(read_yaml(card), origin=str(card))
    first = next(iterate_records(folder / "records.jsonl"), None)
    identities = {first.encoder.sha256} if first is not None else set()
    identities |= {record.encoder.sha256 for record in read_scores(folder)}
    if identities - {source.identity}:
        raise InputError(
            f"{folder}: made with another encoder of the name {source.card.name} (weights, "
            "architecture or input differ); choose another --out"
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"--out: {existing} is a file; a folder is expected")
    if not os.access(existing, os.W_OK):
        raise InputError(f"--out: {existing} cannot be written: permission denied")


def score(scoring: Scoring, progress: JobProgress | None = None) -> list[ScoreRecord]:
    """Compute missing scores and store each as soon as it is known."""
    progress = progress or JobProgress()
    records: list[ScoreRecord] = []
    tasks = {**scoring.data, **scoring.sources}
    progress.begin(len(scoring.encoders) * len(tasks), unit="sets of scores")
    try:
        for source in scoring.encoders:
            work = _Work(scoring, source)
            for name, data in tasks.items():
                of_task, new = work.score(name, data)
                records += of_task
                old = len(of_task) - new
                kept = f", {old} from an earlier call" if old else ""
                progress.finished(f"{source.card.name}, {name}: {new} new{kept}")
    finally:
        progress.end()
    return records


class _Work:
    """Scores of one encoder, which is built when the first score is missing."""

    def __init__(self, scoring: Scoring, source: EncoderSource) -> None:
        self.scoring, self.source = scoring, source
        self.folder = scoring.request.out / source.card.name

    @cached_property
    def encoder(self) -> Encoder:
        device = resolve_device(self.scoring.request.device)
        max_size = self.scoring.protocol.max_size
        return build_encoder(self.source, max_size=max_size, device=device)

    def score(self, name: str, data: TaskData) -> tuple[list[ScoreRecord], int]:
        """Return the requested records of one task, and the number of new ones."""
        protocol = self.scoring.protocol
        prefix = (self.source.identity, name, data.fingerprint, protocol.name)
        plans = {(*prefix, p.fingerprint): p for p in self._plan(name, data.card.kind)}
        records = {record.key: record for record in read_scores(self.folder)}
        if missing := [plan for key, plan in plans.items() if key not in records]:
            find_head = partial(find_source_head, self.source, self.encoder)
            inputs = ScoreInputs(self.encoder, data, protocol.scores, find_head=find_head)
            for record in score_all(inputs, missing, protocol):
                _append(self.folder, self.source.card, record)
                records[record.key] = record
        return [records[key] for key in plans], len(missing)

    def _plan(self, name: str, kind: Kind) -> list[Planned]:
        scoring, plans = self.scoring, []
        if name in scoring.data:
            head = head_identity(self.source)
            plans = plan_scores(scoring.scores, scoring.protocol, kind=kind, head=head)
            if scoring.request.sweep:
                [robustness] = [score for score in scoring.scores if score.name == "robustness"]
                plans += plan_sweep(robustness, scoring.protocol)
        run = self.source.card.pretraining.run
        if name in scoring.sources and run is not None and name in run.tasks:
            plans.append(plan_source(scoring.protocol))
        return plans


def _append(folder: Path, card: EncoderCard, record: ScoreRecord) -> None:
    """Append a record to an encoder's scores, and write its card if missing.

    Processes may do so concurrently. Their lock file lies outside the submission, where it would
    have to stay: deleting a lock file breaks the lock of those that wait for it.
    """
    path = folder / FILE
    lock = cache_folder() / "locks" / f"{digest(str(path.resolve()))}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if not (folder / "encoder.yaml").exists():
                replace(folder / "encoder.yaml", dump_card(card).encode())
            if record.key in {existing.key for existing in read_scores(folder)}:
                return
            content = path.read_bytes() if path.exists() else b""
            complete = content[: content.rfind(b"\n") + 1]  # drops a killed writer's partial line
            replace(path, complete + record.line().encode() + b"\n")
    except OSError as error:
        raise unwritable(f"--out: {folder}", error) from None
