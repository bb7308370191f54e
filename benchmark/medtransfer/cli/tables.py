"""Tables on the console. Imports neither torch nor pandas."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medtransfer.core.errors import plain

console = Console()


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str = "",
    numbers: bool = False,
    bold: Sequence[int] = (),
) -> None:
    """Print a table whose columns are cut rather than broken; text is shown as it is.

    Args:
        head: Names of the columns.
        rows: Values, of any type.
        title: Shown above the table.
        numbers: Whether all columns but the first hold numbers, which are aligned to the right.
        bold: Indices of the rows in bold.
    """
    table = Table(title=escape(title) or None, box=box.SIMPLE_HEAD, title_justify="left")
    for place, name in enumerate(head):
        right = numbers and place > 0
        table.add_column(
            escape(name),
            overflow="ellipsis" if right else "fold",
            no_wrap=place == 0,
            justify="right" if right else "left",
        )
    for place, row in enumerate(rows):
        values = (escape(plain(str(value))) for value in row)
        table.add_row(*values, style="bold" if place in bold else None)
    wide().print(table)


def wide() -> Console:
    """Return a wide console outside a terminal, so that pipes get whole lines."""
    return console if sys.stdout.isatty() else Console(width=200)


def print_rows(head: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print a table, or a JSON list with one mapping a row."""
    if as_json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=2))
    else:
        print_table(head, rows)
