"""Before anything runs or is written: find every input, check it, and plan the cells.

Imports no torch, so that a finished evaluation is recognised at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from medtransfer.core.errors import InputError, unwritable
from medtransfer.data.files.cache import data_folder
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.resolution import Located, locate
from medtransfer.evaluation.cells import check_choices, plan_cells
from medtransfer.evaluation.ledger import Ledger
from medtransfer.evaluation.options import Request
from medtransfer.specs.protocol import Protocol, load_protocol
from medtransfer.specs.record import Cell, Record
from medtransfer.specs.task import Kind, load_tasks, resolve_tasks, suite_budgets

__all__ = ["EXECUTORS", "Prepared", "Request", "check_weights", "leave_out", "prepare"]

_REMEDY = "choose another --out, or --fresh, which deletes what is there"

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Prepared:
    """A checked request.

    Attributes:
        request: The request.
        protocol: Its protocol.
        located: The encoder, not yet built.
        data: The tasks, decoded.
        cells: Every cell that was asked for.
        existing: The records that are already there.
        ledger: Where records go.
        notes: What the user should know, one line each.
    """

    request: Request
    protocol: Protocol
    located: Located
    data: dict[str, TaskData]
    cells: list[Cell]
    existing: dict[Cell, Record]
    ledger: Ledger
    notes: tuple[str, ...]

    @property
    def pending(self) -> list[Cell]:
        """The cells that still have to be run."""
        return [
            cell
            for cell in self.cells
            if cell not in self.existing or not self.existing[cell].settled
        ]


def prepare(request: Request, progress: Progress = SILENT, *, fetch: bool = True) -> Prepared:
    """Check a request and plan its cells. Nothing is written but downloads and decoded data.

    Args:
        request: What the user asks for.
        progress: Shows downloads and decoding.
        fetch: Whether missing files are downloaded.

    Raises:
        InputError: For the first thing that is wrong with it.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    if request.jobs is not None and (not isinstance(request.jobs, int) or request.jobs < 1):
        raise InputError(f"--jobs: {request.jobs!r} is not a number of processes; use 1 or more")
    if request.executor not in EXECUTORS:
        raise InputError(f"--executor: '{request.executor}' is not one of {', '.join(EXECUTORS)}")
    if request.executor == "local" and request.address is not None:
        raise InputError("--address: of a Ray cluster; it goes with --executor ray")
    if request.executor == "ray" and request.device.startswith("cuda:"):
        raise InputError(f"--device: {request.device}: Ray chooses the GPU; use auto, cpu or cuda")
    protocol = load_protocol(request.protocol)
    if "lora" in request.adaptations and find_spec("peft") is None:
        raise InputError("--adaptation: lora needs peft: pip install 'medtransfer[lora]'")
    check_choices(protocol, budgets=request.budgets, adaptations=request.adaptations)
    cards = resolve_tasks(
        names=list(request.tasks), suite=request.suite, folder=request.task_folder
    )
    budgets = request.budgets or suite_budgets(request.suite)
    located = locate(request.encoder, architecture=request.architecture)
    cells = plan_cells(cards, protocol, budgets=budgets, adaptations=request.adaptations)
    planned = {cell.task for cell in cells}
    offers = {n: _offer(protocol, card.kind) for n, card in cards.items() if n not in planned}
    if not cells:
        raise InputError(f"no cell is left to run: {'; '.join(dict.fromkeys(offers.values()))}")
    notes = [f"skipped {name}: {offer}" for name, offer in offers.items()]
    chosen = {name: card for name, card in cards.items() if name in planned}
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
    ledger = Ledger(request.out / located.card.name)
    existing, fingerprints = ledger.read(), protocol.fingerprints
    if request.fresh:
        found, chosen_cells = len(existing), set(cells)
        existing = [
            record
            for record in existing
            if record.cell not in chosen_cells
            and (
                record.task.name not in data
                or record.task.fingerprint == data[record.task.name].fingerprint
            )
            and record.encoder.sha256 == located.identity
            and record.protocol.fingerprint
            == fingerprints.get((record.task.kind, record.adaptation))
        ]
        notes.append(f"--fresh: forgets {found - len(existing)} of {found} earlier records")
    prepared = Prepared(
        request=request,
        protocol=protocol,
        located=located,
        data=data,
        cells=cells,
        existing={record.cell: record for record in existing},
        ledger=ledger,
        notes=(*notes, *located.notes),
    )
    for record in existing:
        current = fingerprints.get((record.task.kind, record.adaptation))
        _check_continues(prepared, record, current)
    return prepared


def _offer(protocol: Protocol, kind: Kind) -> str:
    """What a protocol has for a kind of task."""
    names = (*protocol.adaptations(kind), *protocol.optional(kind))
    if not names:
        return f"protocol {protocol.name} has no {kind}"
    at = [f"{name} ({', '.join(protocol.budgets(name, kind))})" for name in names]
    return f"protocol {protocol.name} has, for {kind}, {', '.join(at)}"


def leave_out(prepared: Prepared, reasons: Mapping[tuple[Kind, str], str]) -> Prepared:
    """The request without the cells that the encoder cannot do.

    Args:
        prepared: The request.
        reasons: Why, for each kind of task and adaptation.

    Raises:
        InputError: When no cell is left.
    """
    kinds = {name: data.card.kind for name, data in prepared.data.items()}
    cells = [cell for cell in prepared.cells if (kinds[cell.task], cell.adaptation) not in reasons]
    if not cells:
        raise InputError(next(iter(reasons.values())))
    remaining = {cell.task for cell in cells}
    skipped: dict[str, dict[str, None]] = {}
    for cell in prepared.cells:
        reason = reasons.get((kinds[cell.task], cell.adaptation))
        if reason is not None:
            what = f"{cell.adaptation} of {cell.task}" if cell.task in remaining else cell.task
            skipped.setdefault(reason, {})[what] = None
    notes = [f"skipped {', '.join(what)}: {reason}" for reason, what in skipped.items()]
    return replace(prepared, cells=cells, notes=(*prepared.notes, *notes))


def check_weights(prepared: Prepared, state: str) -> None:
    """Refuse to add to records of other weights.

    The identity in a record is known before the network is built; a builder that reads a file of
    its own can change without it.

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
    """Find out before hours of work whether results can be written."""
    try:
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    except OSError as error:
        raise unwritable(f"--out: {out}", error) from None
    if not existing.is_dir():
        raise InputError(f"--out: {existing} is a file; a folder is expected")
    if not os.access(existing, os.W_OK):
        raise InputError(f"--out: {existing} cannot be written: permission denied")


def _check_continues(prepared: Prepared, record: Record, fingerprint: str | None) -> None:
    """Refuse to add to records of another protocol, encoder or data."""
    path = prepared.ledger.path
    protocol, task = prepared.protocol, prepared.data.get(record.task.name)
    if record.protocol.fingerprint != fingerprint:
        detail = (
            f"protocol {record.protocol.name}"
            if record.protocol.name != protocol.name
            else f"another version of protocol {protocol.name}"
        )
        raise InputError(
            f"{path}: made under {detail}, not {protocol.name} as it is now; {_REMEDY}"
        )
    if record.encoder.sha256 != prepared.located.identity:
        raise InputError(
            f"{path}: made with another encoder of the name {record.encoder.name} (weights, "
            f"architecture or input differ); {_REMEDY}"
        )
    if task is not None and record.task.fingerprint != task.fingerprint:
        raise InputError(
            f"{path}: made from other data or another card of task {record.task.name}; {_REMEDY}"
        )
