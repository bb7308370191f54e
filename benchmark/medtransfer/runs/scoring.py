"""`bench score`: transferability scores of encoders on tasks, kept beside their records."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from medtransfer.data.cache import data_folder
from medtransfer.data.remote import SILENT, Progress
from medtransfer.data.store import TaskData, open_task
from medtransfer.data.writing import replace
from medtransfer.encoders.resolution import Located, dump_card, locate
from medtransfer.specs.base import InputError, read_yaml
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol, load_protocol
from medtransfer.specs.record import iterate_records
from medtransfer.specs.score import FILE, ScoreRecord, read_scores
from medtransfer.specs.task import find_task, load_tasks, resolve_tasks

if TYPE_CHECKING:
    from medtransfer.transferability.registry import Score

__all__ = ["Request", "Scoring", "ScoringProgress", "find_trajectory", "prepare", "score"]


@dataclass(frozen=True)
class Request:
    """What the user asks for; the fields are the options of ``bench score``."""

    encoders: Sequence[str]
    suite: str | None = None
    tasks: Sequence[str] = ()
    scores: Sequence[str] = ()
    protocol: str = "v1"
    out: Path = Path("submissions")
    data: Path | None = None
    task_folder: Path | None = None
    device: str = "auto"
    sweep: bool = False
    sources: bool = False


@dataclass(frozen=True)
class Scoring:
    """A checked request.

    Attributes:
        request: The request.
        protocol: Its protocol.
        encoders: Found, not yet built.
        data: The tasks, decoded.
        sources: The tasks that encoders were pre-trained on, where their accuracy is wanted.
        scores: What is computed.
    """

    request: Request
    protocol: Protocol
    encoders: list[Located]
    data: dict[str, TaskData]
    scores: list[Score]
    sources: dict[str, TaskData] = field(default_factory=dict)


class ScoringProgress:
    """Is told how far it is; does nothing."""

    def begin(self, total: int) -> None:
        """So many encoders and tasks are to be scored."""

    def advance(self, encoder: str, task: str, found: Sequence[ScoreRecord]) -> None:
        """One encoder's scores on one task are there."""

    def end(self) -> None:
        """All are there, or the work was stopped."""


def prepare(request: Request, progress: Progress = SILENT) -> Scoring:
    """Check a request. Nothing is written but downloads and decoded data.

    Raises:
        InputError: For the first thing that is wrong with it.
    """
    from medtransfer.transferability.registry import choose_scores

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    protocol = load_protocol(request.protocol)
    scores = choose_scores(request.scores)
    if request.sweep and "robustness" not in {one.name for one in scores}:
        raise InputError("--sweep: is of the score robustness, which --score leaves out")
    if not request.encoders:
        raise InputError("--encoder: name at least one, or --trajectory")
    cards = resolve_tasks(
        names=list(request.tasks), suite=request.suite, folder=request.task_folder
    )
    kinds = {kind for one in scores for kind in one.kinds}
    if not any(card.kind in kinds for card in cards.values()):
        raise InputError(
            f"--score: {', '.join(one.name for one in scores)}: not for the kind of these tasks"
        )
    encoders = [locate(encoder) for encoder in request.encoders]
    names = [located.card.name for located in encoders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--encoder: two encoders are called '{name}'")
    for located in encoders:
        _check_folder(request.out / located.card.name, located)
    folder = data_folder(request.data)
    sources = {}
    if request.sources:
        known = {**load_tasks(), **(load_tasks(request.task_folder) if request.task_folder else {})}
        for located in encoders:
            run = located.card.pretraining.run
            for name in run.tasks if run is not None else ():
                card = find_task(name, known)
                if card is not None and name not in sources:
                    sources[name] = open_task(
                        card, folder=folder, progress=progress, corruptions=False
                    )
    data = {name: open_task(card, folder=folder, progress=progress) for name, card in cards.items()}
    return Scoring(request, protocol, encoders, data, scores, sources)


def find_trajectory(folder: Path) -> list[Path]:
    """The encoders that ``bench pretrain --checkpoints`` left in a folder, the first first.

    Raises:
        InputError: When there are fewer than two.
    """
    found: dict[int, Path] = {}
    for path in (folder, *sorted(folder.glob("checkpoints/epoch-*"))):
        file = path / "encoder.yaml"
        if file.is_file():
            run = EncoderCard.parse(read_yaml(file), origin=str(file)).pretraining.run
            if run is not None:  # the last checkpoint is the encoder itself
                found[run.steps] = path
    if len(found) < 2:
        raise InputError(
            f"--trajectory: {folder}: holds {len(found) or 'no'} checkpoint"
            f"{'' if len(found) == 1 else 's'} of bench pretrain --checkpoints; at least two are "
            "needed"
        )
    return [found[steps] for steps in sorted(found)]


def _check_folder(folder: Path, located: Located) -> None:
    """Refuse to add to what stands there of another encoder.

    Raises:
        InputError: When the folder holds one, or cannot be written.
    """
    name = located.card.name
    card = folder / "encoder.yaml"
    if card.exists():
        EncoderCard.parse(read_yaml(card), origin=str(card))
    first = next(iterate_records(folder / "records.jsonl"), None)
    identities = {first.encoder.sha256} if first is not None else set()
    identities |= {one.encoder.sha256 for one in read_scores(folder)}
    if identities - {located.identity}:
        raise InputError(
            f"{folder}: made with another encoder of the name {name} (weights, architecture or "
            "input differ); choose another --out"
        )
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"--out: {existing} cannot be written")


def score(scoring: Scoring, progress: ScoringProgress | None = None) -> list[ScoreRecord]:
    """Compute what is not there yet, and write it down encoder by encoder and task by task.

    Returns:
        The scores that were asked for, of every encoder and task.
    """
    # Here, and not above: what is there already must not wait for torch.
    from medtransfer.encoders.encoder import resolve_device
    from medtransfer.encoders.loading import build_encoder
    from medtransfer.encoders.source_head import find_source_head
    from medtransfer.transferability.material import Material
    from medtransfer.transferability.scoring import accuracy_on_source, score_task, sweep

    progress = progress or ScoringProgress()
    request, protocol = scoring.request, scoring.protocol
    found: list[ScoreRecord] = []
    progress.begin(len(scoring.encoders) * (len(scoring.data) + len(scoring.sources)))
    try:
        for located in scoring.encoders:
            folder = request.out / located.card.name
            encoder, head = None, None
            run = located.card.pretraining.run
            for name, data in [*scoring.data.items(), *scoring.sources.items()]:
                known = {record.key: record for record in read_scores(folder)}
                wanted = _wanted(scoring, located, name, data)
                missing = [one for key, one in wanted.items() if key not in known]
                of_source = name in scoring.sources and run is not None and name in run.tasks
                swept = request.sweep and name in scoring.data
                if (missing or of_source or swept) and encoder is None:
                    device = resolve_device(request.device)
                    encoder = build_encoder(located, max_size=protocol.max_size, device=device)
                    head = find_source_head(located, encoder)
                own = [known[key] for key in wanted if key in known]
                if missing or of_source or swept:
                    assert encoder is not None
                    material = Material(encoder, data, protocol.scores, head=head)
                    made = list(score_task(material, missing, protocol))
                    if swept:
                        robust = next(s for s in scoring.scores if s.name == "robustness")
                        made += sweep(material, robust, protocol)
                    if of_source:
                        made.append(accuracy_on_source(material, protocol))
                    made = [record for record in made if record.key not in known]
                    _append(folder, located.card, made)
                    own += made
                found += own
                progress.advance(located.card.name, name, own)
    finally:
        progress.end()
    return found


def _wanted(
    scoring: Scoring, located: Located, name: str, data: TaskData
) -> dict[tuple[str, ...], Score]:
    """The scores that the kind of a task has, by the keys of their records."""
    if name not in scoring.data:
        return {}
    settings, size = scoring.protocol.scores, scoring.protocol.max_size
    prefix = (located.identity, name, data.fingerprint)
    return {
        (*prefix, one.fingerprint(settings, max_size=size)): one
        for one in scoring.scores
        if data.card.kind in one.kinds
    }


def _append(folder: Path, card: EncoderCard, records: Sequence[ScoreRecord]) -> None:
    """Add lines to an encoder's scores; the card is written where there is none.

    Raises:
        InputError: When that is not possible.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "encoder.yaml").exists():
            replace(folder / "encoder.yaml", dump_card(card).encode())
        lock = FileLock(folder / f".{FILE}.lock")
        with lock:
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]  # without what a killed writer left
            lines = b"".join(record.line().encode() + b"\n" for record in records)
            replace(path, whole + lines)
        with suppress(OSError):
            Path(lock.lock_file).unlink()
    except OSError as error:
        raise InputError(f"--out: {folder} cannot be written: {error.strerror}") from None
