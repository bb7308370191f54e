"""What the command line shows: progress, tables and cards. Imports neither torch nor pandas."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from medtransfer.runs.progress import RunProgress
from medtransfer.specs.record import Cell, Record

if TYPE_CHECKING:
    import pandas as pd

    from medtransfer.runs.estimate import Estimate
    from medtransfer.runs.preparation import Prepared

__all__ = ["ConsoleProgress", "console", "print_estimate", "print_evaluation", "print_table"]

console = Console()

# Work that FLOPs do not show (reading, metrics, bootstrap), as FLOPs of a cell, for the estimate.
_OVERHEAD = 20_000_000_000


class ConsoleProgress(RunProgress):
    """A bar on a terminal; elsewhere one line for each finished cell."""

    def __init__(self) -> None:
        """Show nothing until the run begins."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._work: dict[Cell, int] = {}
        self._done = self._total = 0

    def begin(self, pending: dict[Cell, int], total: int, notes: Sequence[str]) -> None:
        """Say how much there is to do."""
        for note in notes:
            print(f"note: {note}")
        self._work = {cell: flops + _OVERHEAD for cell, flops in pending.items()}
        self._total, self._done = total, total - len(pending)
        if self._done:
            console.print(f"{self._done} of {total} cells are there already", highlight=False)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[cells]}"),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=sum(self._work.values()), cells=f"{self._done}/{total} cells"
            )
            self._bar.start()

    def started(self, cell: Cell) -> None:
        """Name the cell under way."""
        if self._bar is not None:
            self._bar.update(self._task, description=str(cell))

    def finished(self, record: Record) -> None:
        """Count the cell; a failure is always said."""
        self._done += 1
        line = f"[{self._done}/{self._total}] {record.cell}: {_outcome(record)}"
        if self._bar is None:
            print(line, flush=True)
            return
        self._bar.update(
            self._task,
            advance=self._work.get(record.cell, 0),
            cells=f"{self._done}/{self._total} cells",
        )
        if record.status in ("failed", "diverged"):
            self._bar.console.print(escape(line), highlight=False)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _outcome(record: Record) -> str:
    if record.status != "ok":
        return f"{record.status.replace('_', ' ')}: {record.error}"
    values = []
    for split, metrics in record.metrics.items():
        value = metrics[record.task.metric]
        values.append(f"{split} {'undefined' if value is None else f'{value:.3f}'}")
    seconds = f", {record.cost.seconds:.1f} s" if record.cost else ""
    return f"{record.task.metric} {', '.join(values)}{seconds}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table whose columns are cut rather than broken; text is shown as it is."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row))
    _wide().print(table)


def _wide() -> Console:
    """Without a terminal there is no width to respect: a pipe gets whole lines."""
    return console if sys.stdout.isatty() else Console(width=200)


def print_comparison(compared: pd.DataFrame, *, own: str, title: str) -> None:
    """Print an encoder beside others, its own row marked.

    Args:
        compared: From ``medtransfer.ranking.summary``.
        own: The encoder's name.
        title: Above the table.
    """
    from medtransfer.ranking import quantity

    tasks = [
        name
        for name in compared.columns
        if name not in ("encoder", "in_domain", "out_of_domain", "adaptation_flops")
    ]
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("encoder", no_wrap=True)
    for name in ("in-domain", "out-of-domain", *tasks, "adaptation"):
        table.add_column(escape(name), justify="right")
    for row in compared.to_dict("records"):
        cells = [quantity(row[name], "score") for name in ("in_domain", "out_of_domain", *tasks)]
        cells.append(quantity(row["adaptation_flops"], "FLOP"))
        mine = row["encoder"] == own
        table.add_row(
            f"> {row['encoder']}" if mine else f"  {row['encoder']}",
            *cells,
            style="bold" if mine else None,
        )
    _wide().print(table)


def print_estimate(estimate: Estimate) -> None:
    """Print what an evaluation will run, what it costs and how long it may take."""
    from medtransfer.ranking import quantity

    groups: dict[tuple[str, str, str], list[int]] = {}
    for cell, flops in estimate.flops.items():
        groups.setdefault((cell.task, cell.adaptation, cell.budget), []).append(flops)
    rows = [
        (*group, len(cells), quantity(sum(cells), "FLOP") if any(cells) else "not applicable")
        for group, cells in groups.items()
    ]
    for note in estimate.notes:
        print(f"note: {note}")
    print_table(("task", "adaptation", "budget", "draws", "adaptation FLOPs"), rows)
    print(
        f"{len(estimate.flops)} of {estimate.total} cells to run, "
        f"{quantity(sum(estimate.flops.values()), 'FLOP')}, about "
        f"{quantity(estimate.seconds, 'seconds')} on this machine"
    )


def print_evaluation(prepared: Prepared, records: Sequence[Record]) -> None:
    """Print the encoder beside the shipped baselines, over the cells that were asked for."""
    from medtransfer.ranking import Submission, load_submissions, summary
    from medtransfer.specs.base import packaged

    card = prepared.located.card
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        print(f"failed: {record.cell}: {record.error}")
    shipped = [s for s in load_submissions([packaged("submissions")]) if s.card.name != card.name]
    compared = summary(
        [*shipped, Submission(card, tuple(records))],
        cells={record.cell for record in records},
        protocol=prepared.protocol,
        fingerprints={name: task.fingerprint for name, task in prepared.data.items()},
    )
    if failed:
        print("no comparison: some cells failed; the same command tries them again")
    else:
        beside = "beside the shipped baselines" if len(compared) > 1 else "alone"
        print_comparison(
            compared,
            own=card.name,
            title=f"{card.name} {beside}, protocol {prepared.protocol.name}",
        )
        if len(compared) == 1:
            print("No shipped baseline has these cells, so there is nothing to compare with.")
        print(
            "In-domain, out-of-domain: score, 0 is chance, 1 is perfect. Tasks: in-domain AUROC, "
            "0.5 is chance. All are means over budgets and adaptations."
        )
    print(f"records: {prepared.ledger.path}")
