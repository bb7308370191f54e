"""Find and check all inputs, and plan the cells, before anything runs or is written.

Imports no torch, so that a finished evaluation is recognised at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medtransfer.core.errors import InputError, unwritable
from medtransfer.data.files.cache import data_folder
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.resolution import EncoderSource, resolve_encoder
from medtransfer.evaluation.cells import Plan, check_choices, choose_runs, plan_cells
from medtransfer.evaluation.ledger import Ledger
from medtransfer.evaluation.options import Request
from medtransfer.specs.protocol import Protocol, load_protocol
from medtransfer.specs.record import Cell, Record
from medtransfer.specs.task import Kind, load_tasks, resolve_tasks, suite_budgets

_REMEDY = "choose another --out, or --fresh, which deletes what is there"

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Prepared:
    """A checked request.

    Attributes:
        request: The request.
        protocol: Its protocol.
        encoder: Where the encoder comes from; it is not built yet.
        data: The tasks, decoded.
        plan: Plans the cells; see `plan_cells`. Takes as ``limits`` what the encoder cannot do,
            which is known when it is built.
        existing: The records that are already there.
        ledger: Where records go.
        notes: What the user should know, one line each.
    """

    request: Request
    protocol: Protocol
    encoder: EncoderSource
    data: dict[str, TaskData]
    plan: Callable[..., Plan]
    existing: dict[Cell, Record]
    ledger: Ledger
    notes: tuple[str, ...]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All requested cells, including those that the encoder does not support."""
        return self.plan().cells

    @property
    def pending(self) -> list[Cell]:
        """Requested cells without a settled record. If empty, no encoder is needed."""
        return self.find_pending(self.cells)

    def find_pending(self, cells: Sequence[Cell]) -> list[Cell]:
        """Select the cells without a settled record."""
        settled = {cell for cell, record in self.existing.items() if record.settled}
        return [cell for cell in cells if cell not in settled]

    def read_records(self) -> dict[Cell, Record]:
        """Read the ledger again: another evaluation may have added to it since.

        Raises:
            InputError: When a record may not be added to.
        """
        records = self.ledger.read()
        differences = _find_differences(records, self.protocol, self.encoder, self.data)
        _refuse(self.ledger, differences)
        return {record.cell: record for record in records}


def prepare(request: Request, progress: Progress = SILENT, *, fetch: bool = True) -> Prepared:
    """Check a request and plan its cells. Nothing is written but downloads and decoded data.

    Args:
        request: What the user asks for.
        progress: Shows downloads and decoding.
        fetch: Whether missing files are downloaded.

    Raises:
        InputError: For the first thing that is wrong with it.
    """
    _check_options(request)
    protocol = load_protocol(request.protocol)
    if "lora" in request.adaptations and find_spec("peft") is None:
        raise InputError("--adaptation: lora needs peft: pip install 'medtransfer[lora]'")
    check_choices(protocol, budgets=request.budgets, adaptations=request.adaptations)
    cards = resolve_tasks(
        names=list(request.tasks), suite=request.suite, folder=request.task_folder
    )
    encoder = resolve_encoder(request.encoder, architecture=request.architecture)
    budgets = request.budgets or suite_budgets(request.suite)
    wanted: dict[str, Any] = {"budgets": budgets, "adaptations": request.adaptations}
    chosen = {n: card for n, card in cards.items() if choose_runs(card.kind, protocol, **wanted)}
    offers = {n: _list_offer(protocol, card.kind) for n, card in cards.items() if n not in chosen}
    if not chosen:
        raise InputError(f"no cell is left to run: {'; '.join(dict.fromkeys(offers.values()))}")
    notes = [f"skipped {name}: {offer}" for name, offer in offers.items()]
    folder = data_folder(request.data)
    if request.task_folder is not None and request.suite is not None:
        notes.append(f"--suite {request.suite} is run; --tasks only adds cards to choose from")
    if request.task_folder is not None:
        shipped = load_tasks()
        notes += [
            f"{name}: the card in {request.task_folder} stands for the shipped one"
            for name, card in chosen.items()
            if name in shipped and card != shipped[name]
        ]
    data = {
        name: open_task(card, folder=folder, progress=progress, fetch=fetch)
        for name, card in chosen.items()
    }
    _check_writable(request.out)
    plan = partial(
        plan_cells,
        chosen,
        protocol,
        **wanted,
        items={name: len(task.splits["train"]) for name, task in data.items()},
    )
    ledger = Ledger(request.out / encoder.card.name)
    records = ledger.read()
    differences = _find_differences(records, protocol, encoder, data)
    if request.fresh:
        asked, count = set(plan().cells), len(records)
        records = [
            record
            for record, difference in zip(records, differences, strict=True)
            if record.cell not in asked and difference is None
        ]
        notes.append(f"--fresh: forgets {count - len(records)} of {count} earlier records")
    else:
        _refuse(ledger, differences)
    return Prepared(
        request=request,
        protocol=protocol,
        encoder=encoder,
        data=data,
        plan=plan,
        existing={record.cell: record for record in records},
        ledger=ledger,
        notes=(*notes, *encoder.notes),
    )


def _check_options(request: Request) -> None:
    """Refuse invalid options and combinations."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    if request.jobs is not None and (not isinstance(request.jobs, int) or request.jobs < 1):
        raise InputError(f"--jobs: {request.jobs!r} is not a number of processes; use 1 or more")
    if request.executor not in EXECUTORS:
        raise InputError(f"--executor: '{request.executor}' is not one of {', '.join(EXECUTORS)}")
    if request.executor == "local" and request.address is not None:
        raise InputError("--address: names a Ray cluster; add --executor ray")
    if request.executor == "ray" and request.device.startswith("cuda:"):
        raise InputError(f"--device: {request.device}: Ray chooses the GPU; use auto, cpu or cuda")


def _list_offer(protocol: Protocol, kind: Kind) -> str:
    """List the adaptations and budgets of a protocol for a kind of task."""
    names = (*protocol.adaptations(kind), *protocol.optional(kind))
    if not names:
        return f"protocol {protocol.name} has no {kind}"
    at = [f"{name} ({', '.join(protocol.budgets(name, kind))})" for name in names]
    return f"protocol {protocol.name} has, for {kind}, {', '.join(at)}"


def check_weights(prepared: Prepared, state: str) -> None:
    """Refuse to mix records of different weights.

    The identity in a record is computed before the network is built. It misses changes in files
    that a builder reads by itself.

    Raises:
        InputError: When a record was made with weights other than ``state``.
    """
    for record in prepared.existing.values():
        if record.environment.get("weights", state) != state:
            raise InputError(
                f"{prepared.ledger.path}: made with other weights than {record.encoder.name} has "
                f"now; {_REMEDY}"
            )


def _check_writable(out: Path) -> None:
    """Refuse a folder that cannot be written, before hours of work."""
    try:
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    except OSError as error:
        raise unwritable(f"--out: {out}", error) from None
    if not existing.is_dir():
        raise InputError(f"--out: {existing} is a file; a folder is expected")
    if not os.access(existing, os.W_OK):
        raise InputError(f"--out: {existing} cannot be written: permission denied")


def _refuse(ledger: Ledger, differences: Sequence[str | None]) -> None:
    """Refuse to add to records that differ."""
    for difference in filter(None, differences):
        raise InputError(f"{ledger.path}: {difference}; {_REMEDY}")


def _find_differences(
    records: Sequence[Record],
    protocol: Protocol,
    encoder: EncoderSource,
    data: Mapping[str, TaskData],
) -> list[str | None]:
    """Say of each record why it may not be added to, or ``None`` where it may."""
    identity = encoder.identity if records else ""  # hashes the weights
    against = (protocol, protocol.fingerprints, identity, data)
    return [_find_difference(record, *against) for record in records]


def _find_difference(
    record: Record,
    protocol: Protocol,
    fingerprints: Mapping[tuple[str, str], str],
    identity: str,
    data: Mapping[str, TaskData],
) -> str | None:
    """Describe why a record does not fit this request; ``None`` when it does."""
    if record.protocol.fingerprint != fingerprints.get((record.task.kind, record.adaptation)):
        detail = (
            f"protocol {record.protocol.name}"
            if record.protocol.name != protocol.name
            else f"another version of protocol {protocol.name}"
        )
        return f"made under {detail}, not {protocol.name} as it is now"
    if record.encoder.sha256 != identity:
        return (
            f"made with another encoder of the name {record.encoder.name} (weights, architecture "
            "or input differ)"
        )
    task = data.get(record.task.name)
    if task is not None and record.task.fingerprint != task.fingerprint:
        return f"made from other data or another card of task {record.task.name}"
    return None
