"""Claims of a record: its encoder, protocol, task, cell, status and times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from medtransfer.core.errors import InputError, suggest
from medtransfer.encoders.registry import Builder, registered
from medtransfer.encoders.resolution import CHECKPOINTS, EncoderSource, resolve_encoder
from medtransfer.evaluation.cells import find_obstacle
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import PROBES, Protocol, list_protocols, load_protocol
from medtransfer.specs.record import SCHEMA
from medtransfer.verification.entries import Entry
from medtransfer.verification.tasks import Task

_CLOCKS = timedelta(days=1)  # tolerance for clocks of machines that differ


def resolve_card(card: EncoderCard, folder: Path, encoder: str | None = None) -> EncoderSource:
    """Resolve the encoder of a submission, to run it.

    Args:
        card: The submission's, which decides all but the code and the weights.
        folder: The submission.
        encoder: As for `bench evaluate --encoder`; of a checkpoint the file. Without it, weights
            beside the card and code that is shipped or installed, as the card names them.

    Raises:
        InputError: When its code or weights are missing, with the remedy.
    """
    path = Path(encoder or "")
    if path.name.endswith(CHECKPOINTS) and path.is_file():
        return EncoderSource(card, _find_builder(card), path)
    if encoder is not None:
        return replace(resolve_encoder(encoder), card=card)
    weights = folder / (card.weights.path or "encoder.yaml")
    if not (weights.resolve().is_relative_to(folder.resolve()) and weights.is_file()):
        raise InputError(
            f"encoder.yaml: weights.path: '{card.weights.path}' is missing; put the weights "
            "beside encoder.yaml, or name the evaluated encoder with --encoder"
        )
    if (builder := _find_builder(card)) is None:
        return resolve_encoder(str(folder.resolve()))
    return EncoderSource(card, builder, None if card.weights.path is None else weights)


def _find_builder(card: EncoderCard) -> Builder | None:
    """Look up the code that builds the network; ``None`` where timm builds it."""
    if card.architecture.python is None:
        return None
    for encoder in registered().values():
        if encoder.builder is not None and encoder.card.architecture == card.architecture:
            return encoder.builder
    raise InputError(
        f"encoder.yaml: architecture.python: '{card.architecture.python}' is Python code that is "
        "neither shipped nor installed; name its .py file with --encoder"
    )


def find_identity(card: EncoderCard, folder: Path) -> str | None:
    """Compute the identity of a card; ``None`` where its code or weights are missing.

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
    """Compare a card with its folder's name, and with the encoder registered under its name."""
    if card.name != folder.resolve().name:
        yield (
            f"encoder.yaml: name: '{card.name}', but the folder is '{folder.resolve().name}'; "
            "rename the folder to the encoder's name"
        )
    registration = registered().get(card.name)
    if registration is None:
        return
    for name in ("architecture", "weights", "input", "pooling", "pretraining"):
        if getattr(card, name) != getattr(registration.card, name):
            yield (
                f"encoder.yaml: {name}: not that of the encoder that is shipped or installed as "
                f"'{card.name}'; give another encoder another name"
            )


def find_protocols(names: set[str]) -> dict[str, Protocol]:
    """Load those of the named protocols that are shipped."""
    return {name: load_protocol(name) for name in sorted(names & set(list_protocols()))}


def check_claims(
    entry: Entry, card: EncoderCard, identity: str, protocol: Protocol | None, task: Task | None
) -> Iterator[str]:
    """Compare a record with the cards and the protocol.

    Args:
        entry: The record.
        card: The submission's.
        identity: The encoder's, which every record must have.
        protocol: The protocol of the record's name; ``None`` if none is called so.
        task: The task of the record's name; ``None`` if no card is called so.
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
    if protocol is None:
        name = record.protocol.name[:200]
        yield entry.fault(
            "protocol.name", f"'{name}' is no protocol{suggest(name, list_protocols())}"
        )
    elif task is None:
        yield entry.fault(
            "task.name",
            f"no card is called '{record.task.name}'; pass its folder with --tasks",
        )
    else:
        yield from _check_task(entry, task)
        yield from _check_cell(entry, protocol, task)


def _check_task(entry: Entry, task: Task) -> Iterator[str]:
    recorded = entry.record.task
    for name in ("domain", "kind", "metric", "chance"):
        expected = getattr(task.card, name)
        yield from entry.expect(
            f"task.{name}", getattr(recorded, name), expected, source="the task's card says"
        )
    if task.data is not None:
        yield from entry.expect(
            "task.fingerprint",
            recorded.fingerprint,
            task.data.fingerprint,
            source="the card and the data at hand give",
        )


def _check_cell(entry: Entry, protocol: Protocol, task: Task) -> Iterator[str]:
    """Check that the protocol has the cell, and that it applies to the task."""
    record, kind = entry.record, task.card.kind
    fingerprint = protocol.fingerprints.get((kind, record.adaptation))
    if fingerprint is None:
        offered = [name for other, name in protocol.fingerprints if other == kind]
        yield entry.fault(
            "adaptation",
            f"'{record.adaptation[:200]}'; for {kind} protocol {protocol.name} has "
            f"{', '.join(offered) or 'none'}",
        )
        return
    yield from entry.expect(
        "protocol.fingerprint",
        record.protocol.fingerprint,
        fingerprint,
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
            text = reason or "the budget applies to this task, so the cell must be run"
            yield entry.fault("status", f"'{record.status}', but {text}")


def _check_status(entry: Entry) -> Iterator[str]:
    """Check that a record has the fields of its status, and no others."""
    record = entry.record
    status = record.status
    present = {
        "error": record.error is not None,
        "metrics": bool(record.metrics),
        "intervals": bool(record.intervals),
        "cost": record.cost is not None,
        "counts": bool(record.counts),
        "selected": bool(record.selected),
    }
    ran = status in ("ok", "diverged")
    due = {"metrics": status == "ok", "intervals": status == "ok", "error": status != "ok"}
    for name, given in present.items():
        if given != due.get(name, ran):
            text = "does not belong to" if given else "is missing from"
            yield entry.fault(name, f"{text} a record whose status is '{status}'")
    if status == "diverged" and record.adaptation in PROBES:
        yield entry.fault("status", f"'diverged', but {record.adaptation} trains nothing")


def _check_times(entry: Entry) -> Iterator[str]:
    record = entry.record
    times = {"started": _parse_time(record.started), "finished": _parse_time(record.finished)}
    for name, time in times.items():
        if time is None:
            yield entry.fault(name, f"'{getattr(record, name)[:200]}'; ISO 8601 in UTC is expected")
    started, finished = times.values()
    if started is None or finished is None:
        return
    if finished > datetime.now(UTC) + _CLOCKS:
        yield entry.fault("finished", f"'{record.finished}' is in the future")
    taken = finished - started
    if taken < timedelta(0):
        yield entry.fault("finished", f"'{record.finished}' is before it started: {record.started}")
    elif record.cost is not None and record.cost.seconds > taken.total_seconds() + 2:
        yield entry.fault(  # tolerance of 2 s: both times are truncated to whole seconds
            "cost.seconds",
            f"{record.cost.seconds:g}; it started and finished within {taken.total_seconds():g}",
        )


def _parse_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
