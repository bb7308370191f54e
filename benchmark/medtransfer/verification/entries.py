"""The lines of a ledger, read one by one, so that each problem can name its line."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medtransfer.core.errors import reason
from medtransfer.specs.base import explain
from medtransfer.specs.record import Cell, Record

__all__ = ["LEDGER", "Entry", "find_doubles", "read_entries"]

LEDGER = "records.jsonl"

_LARGEST = 1e24  # FLOPs of no adaptation come near; what is larger could not be computed with


@dataclass(frozen=True, eq=False)
class Entry:
    """A record and the line it stands in, counted from 1."""

    line: int
    record: Record

    def fault(self, field: str, text: str) -> str:
        """One line about what is wrong with a field."""
        return f"{LEDGER}: line {self.line} ({self.record.cell}): {field}: {text}"

    def expect(self, field: str, found: Any, right: Any, *, source: str) -> Iterator[str]:
        """The problem, if there is one, that a field is not what the source says."""
        if found != right:
            yield self.fault(field, f"{_show(found)}; {source} {_show(right)}")

    def expect_close(
        self, field: str, found: float | None, right: float | None, *, within: float, source: str
    ) -> Iterator[str]:
        """As :meth:`expect` for numbers that may differ by ``within``, times their size over 1."""
        if found is None or right is None:
            yield from self.expect(field, found, right, source=source)
        elif not abs(found - right) <= within * max(1.0, abs(right)):
            yield self.fault(field, f"{found:.9g}; {source} {right:.9g}")


def _show(value: Any) -> str:
    if value is None:
        return "null"
    text = f"{value:.9g}" if isinstance(value, float) and math.isfinite(value) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def read_entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """Read every line of a submission's ledger.

    Returns:
        The records, and a problem for each line that is none.
    """
    path = folder / LEDGER
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        return [], [f"{LEDGER}: cannot be read: {reason(error)}; a submission's records are there"]
    entries: list[Entry] = []
    problems = []
    if lines.pop().strip():
        problems.append(
            f"{LEDGER}: line {len(lines) + 1}: has no end, so it is not read; delete it"
        )
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = Record.model_validate_json(line)
        except ValidationError as error:
            problems.append(f"{LEDGER}: line {number}: {explain(Record, error)}")
            continue
        if (double := _find_double_key(line)) is not None:
            problems.append(f"{LEDGER}: line {number}: {double[:200]!r} is there twice; keep one")
        elif all(abs(found) <= _LARGEST for found in _numbers(record.model_dump())):
            entries.append(Entry(number, record))
        else:
            problems.append(f"{LEDGER}: line {number}: a number is NaN or beyond {_LARGEST:g}")
    if not entries and not problems:
        problems.append(f"{LEDGER}: holds no record")
    return entries, problems


def _find_double_key(line: bytes) -> str | None:
    """A key that an object has twice: of two values the eye may read the other one."""
    double: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        double.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)

    json.loads(line, object_pairs_hook=look)
    return double[0] if double else None


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a record."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


def find_doubles(entries: list[Entry]) -> Iterator[str]:
    """Cells that are settled twice: of two results somebody could choose.

    A failed cell that was run again later has two lines, of which one is settled.
    """
    first: dict[Cell, Entry] = {}
    for entry in entries:
        if (
            entry.record.settled
            and (other := first.setdefault(entry.record.cell, entry)) is not entry
        ):
            yield entry.fault("cell", f"is settled in line {other.line} already; keep one")
