"""What a record says of itself: encoder, protocol, task, cell, status and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medtransfer.core.errors import InputError, suggest
from medtransfer.encoders.registry import Builder, registered
from medtransfer.encoders.resolution import CHECKPOINTS, EncoderSource, resolve_encoder
from medtransfer.evaluation.cells import find_obstacle
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import PROBES, Protocol, list_protocols, load_protocol
from medtransfer.specs.record import SCHEMA, Record
from medtransfer.verification.entries import Entry
from medtransfer.verification.tasks import Task

__all__ = ["check_card", "check_claims", "find_identity", "find_protocols", "resolve_card"]

_CLOCKS = timedelta(days=1)  # how far the clocks of two machines may be apart


def resolve_card(card: EncoderCard, folder: Path, encoder: str | None = None) -> EncoderSource:
    """Find the encoder of a submission, to run it.

    Args:
        card: The submission's, which holds for all but the code and the weights.
        folder: The submission.
        encoder: As `bench evaluate --encoder` took it; of a checkpoint the file. Without it, what
            the card names: weights beside it, and code that is shipped or installed.

    Raises:
        InputError: When its code or weights are not at hand, saying what to do.
    """
    path = Path(encoder or "")
    if path.name.endswith(CHECKPOINTS) and path.is_file():
        return EncoderSource(card, _find_builder(card), path)
    if encoder is not None:
        return replace(resolve_encoder(encoder), card=card)
    weights = folder / (card.weights.path or "encoder.yaml")
    if not (weights.resolve().is_relative_to(folder.resolve()) and weights.is_file()):
        raise InputError(
            f"encoder.yaml: weights.path: '{card.weights.path}' is not beside it; put the weights "
            "there, or name with --encoder what was evaluated"
        )
    if (builder := _find_builder(card)) is None:
        return resolve_encoder(str(folder.resolve()))
    return EncoderSource(card, builder, None if card.weights.path is None else weights)


def _find_builder(card: EncoderCard) -> Builder | None:
    """The code that builds the network; ``None`` where timm does."""
    if card.architecture.python is None:
        return None
    for known in registered().values():
        if known.builder is not None and known.card.architecture == card.architecture:
            return known.builder
    raise InputError(
        f"encoder.yaml: architecture.python: '{card.architecture.python}' is Python code that is "
        "neither shipped nor installed; name its .py file with --encoder"
    )


def find_identity(card: EncoderCard, folder: Path) -> str | None:
    """The identity that a card gives, or ``None`` where its code or weights are not at hand.

    Raises:
        InputError: When the weights in the folder are not those of the card.
    """
    weights = card.weights
    at_hand = weights.path is None or (folder / weights.path).is_file()
    if card.architecture.python is not None:
        try:
            return resolve_card(card, folder).identity
        except InputError:
            return None
    if at_hand and weights.url is None:
        return resolve_card(card, folder).identity
    return card.identity(weights.sha256) if weights.sha256 else None


def check_card(card: EncoderCard, folder: Path) -> Iterator[str]:
    """Differences from the folder's name, and from the encoder registered under the card's."""
    if card.name != folder.resolve().name:
        yield (
            f"encoder.yaml: name: '{card.name}', but the folder is '{folder.resolve().name}'; a "
            "submission's folder is called as its encoder"
        )
    known = registered().get(card.name)
    if known is None:
        return
    for name in ("architecture", "weights", "input", "pooling", "pretraining"):
        if getattr(card, name) != getattr(known.card, name):
            yield (
                f"encoder.yaml: {name}: not that of the encoder that is shipped or installed as "
                f"'{card.name}'; another encoder needs another name"
            )


def find_protocols(names: set[str]) -> dict[str, Protocol]:
    """The shipped protocols among some names."""
    return {name: load_protocol(name) for name in sorted(names & set(list_protocols()))}


def check_claims(
    entry: Entry,
    *,
    card: EncoderCard,
    identity: str,
    protocols: Mapping[str, Protocol],
    tasks: Mapping[str, Task],
) -> Iterator[str]:
    """Compare a record with the cards and the protocol.

    Args:
        entry: The record.
        card: The submission's.
        identity: That every record must have.
        protocols: The shipped ones, by name.
        tasks: Of the records, by name.
    """
    record = entry.record
    yield from entry.expect("schema", record.schema_, SCHEMA, source="this version writes")
    yield from entry.expect(
        "encoder.name", record.encoder.name, card.name, source="encoder.yaml says"
    )
    yield from entry.expect(
        "encoder.sha256",
        record.encoder.sha256,
        identity,
        source="the card's weights, architecture and input give",
    )
    yield from _check_times(entry)
    yield from _check_status(entry)
    if (protocol := protocols.get(record.protocol.name)) is None:
        name = record.protocol.name[:200]
        yield entry.fault(
            "protocol.name", f"'{name}' is no protocol{suggest(name, list_protocols())}"
        )
    elif (task := tasks.get(record.task.name)) is None:
        yield entry.fault(
            "task.name",
            f"no card is called '{record.task.name}'; --tasks names the folder of its card",
        )
    else:
        yield from _check_task(entry, task)
        yield from _check_cell(entry, protocol, task)


def _check_task(entry: Entry, task: Task) -> Iterator[str]:
    found = entry.record.task
    for name in ("domain", "kind", "metric", "chance"):
        right = getattr(task.card, name)
        yield from entry.expect(
            f"task.{name}", getattr(found, name), right, source="the task's card says"
        )
    if task.data is not None:
        yield from entry.expect(
            "task.fingerprint",
            found.fingerprint,
            task.data.fingerprint,
            source="the card and the data at hand give",
        )


def _check_cell(entry: Entry, protocol: Protocol, task: Task) -> Iterator[str]:
    """Whether the protocol has the cell, and whether it applies to the task."""
    record, kind = entry.record, task.card.kind
    right = protocol.fingerprints.get((kind, record.adaptation))
    if right is None:
        offered = [name for known, name in protocol.fingerprints if known == kind]
        yield entry.fault(
            "adaptation",
            f"'{record.adaptation[:200]}'; for {kind} protocol {protocol.name} has "
            f"{', '.join(offered) or 'none'}",
        )
        return
    yield from entry.expect(
        "protocol.fingerprint",
        record.protocol.fingerprint,
        right,
        source=f"protocol {protocol.name} as it is now has",
    )
    draws = protocol.budgets(record.adaptation, kind)
    if record.budget not in draws:
        yield entry.fault(
            "budget",
            f"'{record.budget[:200]}'; of {record.adaptation} protocol {protocol.name} has "
            f"{', '.join(draws)}",
        )
        return
    if record.draw >= draws[record.budget]:
        yield entry.fault(
            "draw", f"{record.draw}; protocol {protocol.name} has 0 to {draws[record.budget] - 1}"
        )
    if task.data is not None and record.status != "failed":
        reason = find_obstacle(task.card, record.budget, len(task.data.splits["train"]), protocol)
        if (reason is not None) != (record.status == "not_applicable"):
            text = reason or "the budget applies to this task, and the cell must be run"
            yield entry.fault("status", f"'{record.status}', but {text}")


def _check_status(entry: Entry) -> Iterator[str]:
    """Whether a record has what its status promises, and nothing else."""
    record = entry.record
    status = record.status
    held = {
        "error": record.error is not None,
        "metrics": bool(record.metrics),
        "intervals": bool(record.intervals),
        "cost": record.cost is not None,
        "counts": bool(record.counts),
        "selected": bool(record.selected),
    }
    ran = status in ("ok", "diverged")
    due = {"metrics": status == "ok", "intervals": status == "ok", "error": status != "ok"}
    for name, there in held.items():
        if there != due.get(name, ran):
            what = "is there, but does not belong" if there else "is missing, but belongs"
            yield entry.fault(name, f"{what} to a record whose status is '{status}'")
    if status == "diverged" and record.adaptation in PROBES:
        yield entry.fault("status", f"'diverged', but {record.adaptation} trains nothing")


def _check_times(entry: Entry) -> Iterator[str]:
    record = entry.record
    times = []
    for name in ("started", "finished"):
        time = _parse_time(record, name)
        if time is None:
            yield entry.fault(name, f"'{getattr(record, name)[:200]}'; ISO 8601 in UTC is expected")
        else:
            times.append(time)
    if len(times) < 2:
        return
    if times[1] > datetime.now(UTC) + _CLOCKS:
        yield entry.fault("finished", f"'{record.finished}' is in the future")
    taken = times[1] - times[0]
    if taken < timedelta(0):
        yield entry.fault("finished", f"'{record.finished}' is before it started: {record.started}")
    elif record.cost is not None and record.cost.seconds > taken.total_seconds() + 2:
        yield entry.fault(  # both times are cut to whole seconds
            "cost.seconds",
            f"{record.cost.seconds:g}; it started and finished within {taken.total_seconds():g}",
        )


def _parse_time(record: Record, name: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(getattr(record, name))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
