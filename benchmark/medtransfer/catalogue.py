"""What there is: the tables of `bench list` and the cards of `bench show`. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtransfer.encoders.registry import registered
from medtransfer.specs.base import InputError, suggest
from medtransfer.specs.protocol import list_protocols, load_protocol
from medtransfer.specs.task import Source, TaskCard, load_suites, load_tasks

__all__ = ["find", "listing"]

Rows = list[tuple[str, ...]]


def listing(kind: str, folder: Path | None = None) -> tuple[tuple[str, ...], Rows]:
    """The head and the rows of a list.

    Args:
        kind: ``tasks``, ``encoders``, ``suites`` or ``protocols``.
        folder: The user's own task cards.
    """
    if kind == "tasks":
        columns = "task domain kind classes out-of-domain source licence title"
        return tuple(columns.split()), [_task_row(card) for card in load_tasks(folder).values()]
    if kind == "encoders":
        return ("encoder", "weights", "pre-trained on", "input", "title"), [
            (
                card.name,
                "random" if card.weights.random else (card.weights.hub or "file"),
                ", ".join(card.pretraining.datasets or ()) or "-",
                f"{card.input.size} px",
                card.title,
            )
            for card in (registration.card for registration in registered().values())
        ]
    if kind == "suites":
        return ("suite", "tasks"), [(name, ", ".join(t)) for name, t in load_suites().items()]
    rows: Rows = []
    for name in list_protocols():
        protocol = load_protocol(name)
        rows.append((name, ", ".join(protocol.ranked), protocol.fingerprint[:12], protocol.title))
    return ("protocol", "adaptations", "fingerprint", "title"), rows


def _task_row(card: TaskCard) -> tuple[str, ...]:
    return (
        card.name,
        card.domain,
        card.kind,
        str(len(card.classes)),
        ", ".join(card.out_of_domain) or "-",
        _where(card.train),
        card.licence,
        card.title,
    )


def _where(source: Source) -> str:
    """The field that names a source's kind, and its value."""
    kind, value = next(iter(source.model_dump().items()))
    return f"{kind}: {value}"


def find(name: str, folder: Path | None = None) -> dict[str, Any]:
    """A card, suite or protocol by name, as plain data.

    Raises:
        InputError: With the closest known name.
    """
    tasks, encoders, suites = load_tasks(folder), registered(), load_suites()
    if name in tasks:
        return {"task": tasks[name].model_dump(mode="json")}
    if name in encoders:
        return {"encoder": encoders[name].card.model_dump(mode="json")}
    if name in suites:
        return {"suite": {"name": name, "tasks": suites[name]}}
    if name in list_protocols():
        protocol = load_protocol(name)
        values = protocol.model_dump(mode="json")
        return {"protocol": {**values, "fingerprint": protocol.fingerprint}}
    known = {*tasks, *encoders, *suites, *list_protocols()}
    raise InputError(f"nothing is called '{name}'{suggest(name, known)}")
