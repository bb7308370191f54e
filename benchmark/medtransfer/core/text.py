"""Format text and numbers for people, safe inside Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Literal

Unit = Literal["score", "FLOP", "count", "seconds", "bytes", "joules", "text"]

MISSING = "-"


def escape(text: object) -> str:
    """Escape untrusted text to one line that Markdown shows literally."""
    line = " ".join(str(text).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(character, entity)
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def shorten(text: object, most: int) -> str:
    """Shorten untrusted text to one line of at most ``most`` characters, cut in the middle.

    Invisible characters, such as bidirectional marks, are dropped.
    """
    line = "".join(c if c.isprintable() else " " * c.isspace() for c in str(text))
    line = " ".join(line.split())
    head = most // 2
    return line if len(line) <= most else f"{line[:head]}…{line[head + 1 - most :]}"


def quantity(value: float | None, unit: Unit) -> str:
    """Format a number for people: ``3.6 GFLOP``, ``45.1 M``, ``2.1 h``, ``1.9 GB``."""
    if not isinstance(value, Real) or math.isnan(value):  # None, NaN, or pandas' NA
        return MISSING
    if unit == "score":
        return f"{round(value, 3) + 0.0:.3f}"  # + 0.0 turns -0.0 into 0.0
    if unit == "seconds":
        if value < 120:
            return f"{value:.1f} s"
        return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
    power = 0
    while value >= 999.95 and power < 6:
        value, power = value / 1000, power + 1
    symbol = {"FLOP": "FLOP", "bytes": "B", "joules": "J"}.get(unit, "")
    return f"{value:.{1 if power else 0}f} {' kMGTPE'[power].strip()}{symbol}".strip()


def pipe_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, align: str | None = None
) -> str:
    """Format a Markdown table; by default the first column is text, the others numbers."""
    align = align or "l" + "r" * (len(head) - 1)
    rule = ["---:" if side == "r" else "---" for side in align]
    return "".join(f"| {' | '.join(row)} |\n" for row in [map(escape, head), rule, *rows])
