"""Records of a ledger with their line numbers, so that each problem can name its line."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medtransfer.core.errors import reason
from medtransfer.specs.base import explain
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol, Training
from medtransfer.specs.record import Cell, Record
from medtransfer.verification.tasks import Draw, Task

LEDGER = "records.jsonl"

_LARGEST = 1e24  # far above the FLOPs of any adaptation; larger numbers would overflow


@dataclass(frozen=True, eq=False)
class Entry:
    """Record with its line number in the ledger, counted from 1."""

    line: int
    record: Record

    def fault(self, field: str, text: str) -> str:
        """Describe a problem of a field in one line."""
        return f"{LEDGER}: line {self.line} ({self.record.cell}): {field}: {text}"

    def expect(self, field: str, recorded: Any, expected: Any, *, source: str) -> Iterator[str]:
        """Yield a problem if a field is not what the source says."""
        if recorded != expected:
            yield self.fault(field, f"{_show(recorded)}; {source} {_show(expected)}")

    def expect_close(
        self, field: str, recorded: Any, expected: Any, *, within: float, source: str
    ) -> Iterator[str]:
        """Yield a problem if a number, or an end of an interval, is more than ``within`` off.

        Above 1, ``within`` is relative.
        """
        if recorded is None or expected is None:
            yield from self.expect(field, recorded, expected, source=source)
        elif isinstance(expected, tuple):
            for number, end in enumerate(("lower", "upper")):
                yield from self.expect_close(
                    f"{field}, {end} end",
                    recorded[number],
                    expected[number],
                    within=within,
                    source=source,
                )
        elif not abs(recorded - expected) <= within * max(1.0, abs(expected)):
            yield self.fault(field, f"{recorded:.9g}; {source} {expected:.9g}")


@dataclass(frozen=True, eq=False)
class ResolvedEntry(Entry):
    """Entry with its encoder card, task and protocol.

    Attributes:
        card: Of the encoder.
        task: Card and data of the task.
        protocol: The protocol.
        first: Hyperparameters that draw 0 selected, where it is recorded.
    """

    card: EncoderCard
    task: Task
    protocol: Protocol
    first: Mapping[str, Any] | None

    @cached_property
    def draw(self) -> Draw | None:
        """Training items of the draw; ``None`` without data."""
        return self.task.draw(self.record.budget, self.record.draw)

    @cached_property
    def training(self) -> Training:
        """Learning rates and steps of an adaptation that trains by gradient."""
        record = self.record
        return self.protocol.training(
            record.adaptation,
            record.task.kind,
            record.budget,
            random=self.card.pretraining.objective == "none",
            reused=record.cell.reused_rate(self.first),
        )


def _show(value: Any) -> str:
    if value is None:
        return "null"
    text = f"{value:.9g}" if isinstance(value, float) and math.isfinite(value) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def read_entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """Read every line of a submission's ledger.

    Returns:
        The records, and a problem for each invalid line.
    """
    path = folder / LEDGER
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        return [], [f"{LEDGER}: cannot be read: {reason(error)}; it holds a submission's records"]
    entries: list[Entry] = []
    problems = []
    if lines.pop().strip():
        problems.append(f"{LEDGER}: line {len(lines) + 1}: incomplete, so it is ignored; delete it")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError as error:
            problems.append(f"{LEDGER}: line {number}: {explain(Record, error)}")
            continue
        if (double := _find_double_key(line)) is not None:
            problems.append(f"{LEDGER}: line {number}: {double[:200]!r} occurs twice; keep one")
        elif all(abs(number) <= _LARGEST for number in _numbers(record.model_dump())):
            entries.append(Entry(number, record))
        else:
            problems.append(f"{LEDGER}: line {number}: a number is NaN or beyond {_LARGEST:g}")
    if not entries and not problems:
        problems.append(f"{LEDGER}: holds no record")
    return entries, problems


def _find_double_key(line: bytes) -> str | None:
    """Find a duplicate key: a reader may see a value other than the one in use."""
    double: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        double.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)

    json.loads(line, object_pairs_hook=look)
    return double[0] if double else None


def _numbers(value: Any) -> Iterator[float]:
    """Yield every number in a record."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


def find_doubles(entries: list[Entry]) -> Iterator[str]:
    """Report cells that are settled twice: a reader could choose the better result.

    A failed cell that was run again later has two lines, of which one is settled.
    """
    first: dict[Cell, Entry] = {}
    for entry in entries:
        if not entry.record.settled:
            continue
        if (other := first.setdefault(entry.record.cell, entry)) is not entry:
            yield entry.fault("cell", f"is settled in line {other.line} already; keep one")
