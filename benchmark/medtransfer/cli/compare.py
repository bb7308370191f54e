"""`bench compare`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.options import SUBMISSIONS, SubmissionsOption

if TYPE_CHECKING:
    from rich.table import Table

    from medtransfer.ranking import Difference, Layout

_NARROW = 12  # width of a score column, whatever the encoder's name: terminals can be 80 wide


def compare(
    first: Annotated[str, typer.Argument(help="An encoder with a submission.")],
    second: Annotated[str, typer.Argument(help="Another encoder with a submission.")],
    submissions: SubmissionsOption = None,
) -> None:
    """Compare two encoders: paired differences with 95 % intervals, by view and task."""
    from medtransfer import ranking
    from medtransfer.cli.leaderboard import note_merged

    loaded = ranking.load_submissions(submissions or [SUBMISSIONS])
    for line in note_merged([each for each in loaded if each.card.name in (first, second)]):
        print(line)
    for layout, differences in ranking.compare(loaded, first, second):
        _print_differences(layout, differences, (first, second))
    print(
        "* better: the 95 % interval of the difference excludes 0. Scores are normalised: 0 is\n"
        "chance, 1 is perfect, over the cells that both encoders have. Intervals:\n"
        "paired bootstrap over test items and few-shot draws, not corrected for multiple\n"
        "comparisons."
    )


def _print_differences(
    layout: Layout, differences: Sequence[Difference], names: tuple[str, str]
) -> None:
    """Print one protocol and suite: the better encoder, then views, domains and tasks."""
    from medtransfer.cli.tables import wide
    from medtransfer.ranking import shared_cells

    shared = shared_cells(layout.ranked, *names)
    absent = sorted({cell.task for cell in layout.cells} - set(shared))
    without = f"; not in both: {', '.join(absent)}" if absent else ""
    for row in differences:
        if (row.view, row.part) == ("overall", "view"):
            print(_sum_up(row, names))
    print(
        f"Protocol {layout.protocol}, suite {layout.suite}: {sum(shared.values())} of "
        f"{len(layout.cells)} cells are in both submissions{without}."
    )
    for split in dict.fromkeys(row.split for row in differences):
        rows = [row for row in differences if row.split == split]
        wide().print(_tabulate_differences(rows, names), "")


def _sum_up(row: Difference, names: tuple[str, str]) -> str:
    """State the better encoder overall, the difference and its interval."""
    first, second = names
    where = row.split.replace("_", "-").capitalize()
    change = row.first - row.second
    if row.verdict in ("first", "second"):
        better, worse = names if row.verdict == "first" else (second, first)
        low, high = sorted((abs(row.low), abs(row.high)))
        by = f"{abs(change):.3f} (95 %: {low:.3f} to {high:.3f})"
        return f"{where}, {better} is better than {worse} by {by}."
    minus = f"{first} minus {second} is {change:+.3f}"
    if row.verdict == "none":
        interval = f"(95 %: {row.low:+.3f} to {row.high:+.3f})"
        return f"{where}, neither is shown to be better: {minus} {interval}."
    return f"{where}, {minus}; no interval: bootstrap replicates are missing."


def _tabulate_differences(rows: Sequence[Difference], names: tuple[str, str]) -> Table:
    """One row for each view, domain and task of a test split; a star marks the better encoder."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, pad_edge=False)
    table.add_column(rows[0].split.replace("_", "-"), overflow="fold")
    for name in names:
        head = "\n".join(textwrap.wrap(name, _NARROW))
        table.add_column(escape(head), justify="right", no_wrap=True)
    for name in ("difference", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    part = rows[0].part
    for row in rows:
        if row.part != part:
            table.add_section()
            part = row.part
        table.add_row(
            escape(row.view),
            f"{row.first:.3f}{'*' if row.verdict == 'first' else ' '}",
            f"{row.second:.3f}{'*' if row.verdict == 'second' else ' '}",
            f"{row.first - row.second:+.3f}",
            f"{row.low:+.3f} to {row.high:+.3f}" if row.verdict != "unknown" else "no interval",
        )
    return table
