"""What the command line shows: progress, tables and cards. Imports neither torch nor pandas."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.status import Status
from rich.table import Table

from medtransfer.core.errors import plain
from medtransfer.evaluation.failures import ERROR_LOG
from medtransfer.evaluation.progress import RunProgress
from medtransfer.specs.protocol import OPTIONAL
from medtransfer.specs.record import Cell, Record
from medtransfer.specs.split_name import SplitName

if TYPE_CHECKING:
    import pandas as pd

    from medtransfer.data.files.remote import RemoteFile
    from medtransfer.evaluation.estimate import Estimate
    from medtransfer.evaluation.request import Prepared
    from medtransfer.ranking import Difference, Layout, Submission

__all__ = [
    "ConsoleData",
    "ConsoleProgress",
    "console",
    "print_estimate",
    "print_evaluation",
    "print_table",
]

console = Console()

# Work that FLOPs do not show (reading, metrics, bootstrap), as FLOPs of a cell, for the estimate.
_OVERHEAD = 20_000_000_000
_LARGE = 2**28  # bytes of a split that take more than a moment to decode


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


class ConsoleData:
    """Bars on a terminal; elsewhere a line when a download begins, and for each tenth of it."""

    def __init__(self) -> None:
        """Show nothing until something is fetched or decoded."""
        self._status: Status | None = None
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> ConsoleData:
        """Nothing is shown yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take away what is shown."""
        self._stop_status()
        if self._bar is not None:
            self._bar.stop()

    def announce(self, file: RemoteFile, url: str) -> None:
        """Say what is fetched, from where and under which licence."""
        self._stop_status()
        size = f", at most {_megabytes(file.at_most)}" if file.at_most else ""
        self._print(f"downloading {file.name}{size} from {url}")
        self._print(f"  licence: {file.licence}")
        if console.is_terminal:
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
                self._bar = Progress(
                    *columns, TransferSpeedColumn(), TimeRemainingColumn(), transient=True
                )
                self._bar.start()
            if file.name not in self._tasks:
                self._tasks[file.name] = self._bar.add_task(escape(file.name), total=None)

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._tasks[file.name], completed=done, total=total)
        elif total and (tenth := 10 * done // total) > self._tenths.get(file.name, 0):
            self._tenths[file.name] = tenth
            print(f"{file.name}: {tenth}0 % of {_megabytes(total)}", flush=True)

    def warn(self, message: str) -> None:
        """One line."""
        self._print(f"note: {message}")

    def finish(self, file: RemoteFile) -> None:
        """The bar goes."""
        if self._bar is not None and file.name in self._tasks:
            self._bar.remove_task(self._tasks.pop(file.name))

    def decode(self, what: str, size: int) -> None:
        """Name what is decoded; without a terminal only where it takes a while."""
        line = f"decoding {what}, {_megabytes(size)}"
        if console.is_terminal and self._bar is None:
            self._status = self._status or console.status("")
            self._status.start()
            self._status.update(escape(line))
        elif size >= _LARGE:
            self._print(line)

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(escape(line), highlight=False)
        else:
            print(line, flush=True)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _outcome(record: Record) -> str:
    if record.status != "ok":
        return f"{record.status.replace('_', ' ')}: {record.error}"
    families: dict[str, list[float | None]] = {}
    for split, metrics in record.metrics.items():
        families.setdefault(SplitName.parse(split).family, []).append(metrics[record.task.metric])
    values = []
    for name, found in families.items():
        known = [value for value in found if value is not None]
        mean = f"{sum(known) / len(known):.3f}" if len(known) == len(found) else "undefined"
        values.append(f"{name} {mean}")
    seconds = f", {record.cost.seconds:.1f} s" if record.cost else ""
    return f"{record.task.metric} {', '.join(values)}{seconds}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table whose columns are cut rather than broken; text is shown as it is."""
    table = Table(box=box.SIMPLE_HEAD)
    for place, name in enumerate(head):
        table.add_column(escape(name), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(escape(plain(str(value))) for value in row))
    _wide().print(table)


def _wide() -> Console:
    """Without a terminal there is no width to respect: a pipe gets whole lines."""
    return console if sys.stdout.isatty() else Console(width=200)


def print_comparison(compared: pd.DataFrame, *, own: str, title: str) -> None:
    """Print an encoder beside others, its own row marked.

    Args:
        compared: From ``medtransfer.ranking.boards.summary``.
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


_NARROW = 12  # columns of a score, whatever the encoder is called: a terminal may have 80 in all


def print_differences(
    layout: Layout, differences: Sequence[Difference], names: tuple[str, str]
) -> None:
    """Two encoders on one protocol and suite: who is better, then views, domains and tasks."""
    from medtransfer.ranking import shared_cells  # with pandas, which is here by now

    shared = shared_cells(layout.ranked, *names)
    absent = sorted({cell.task for cell in layout.cells} - set(shared))
    without = f", without {', '.join(absent)}, which not both have" if absent else ""
    for row in differences:
        if (row.view, row.part) == ("overall", "view"):
            print(_sum_up(row, names))
    print(
        f"Protocol {layout.protocol}, suite {layout.suite}: {sum(shared.values())} of its "
        f"{len(layout.cells)} cells{without}."
    )
    for split in dict.fromkeys(row.split for row in differences):
        rows = [row for row in differences if row.split == split]
        _wide().print(_tabulate_differences(rows, names), "")


def _sum_up(row: Difference, names: tuple[str, str]) -> str:
    """One sentence: who is better overall, by how much, and how sure that is."""
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
    return f"{where}, {minus}; without bootstrap replicates nobody knows how sure that is."


def _tabulate_differences(rows: Sequence[Difference], names: tuple[str, str]) -> Table:
    """One row a view, domain and task of one test split; who is better there has a star."""
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
            f"{row.low:+.3f} to {row.high:+.3f}" if row.verdict != "unknown" else "unknown",
        )
    return table


def print_estimate(estimate: Estimate) -> None:
    """Print what an evaluation will run, what it costs and how long it may take."""
    from medtransfer.ranking import quantity

    groups: dict[tuple[str, str, str], list[int | None]] = {}
    for cell, flops in estimate.flops.items():
        groups.setdefault((cell.task, cell.adaptation, cell.budget), []).append(flops)
    rows = [
        (
            *group,
            len(cells),
            "not applicable" if None in cells else quantity(sum(filter(None, cells)), "FLOP"),
        )
        for group, cells in groups.items()
    ]
    running = [flops for flops in estimate.flops.values() if flops is not None]
    for note in estimate.notes:
        print(f"note: {note}")
    print_table(("task", "adaptation", "budget", "draws", "adaptation FLOPs"), rows)
    print(
        f"{len(running)} of {estimate.total} cells to run, {quantity(sum(running), 'FLOP')}, about "
        f"{quantity(estimate.seconds, 'seconds')} on this machine"
    )


def print_evaluation(prepared: Prepared, records: Sequence[Record]) -> None:
    """Print the encoder beside the shipped baselines, over the cells that were asked for."""
    from medtransfer.core.documents import packaged
    from medtransfer.ranking import Submission, compare_records, load_submissions, tabulate

    card = prepared.encoder.card
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        print(f"failed: {record.cell}: {record.error}")
    shipped = [s for s in load_submissions([packaged("submissions")]) if s.card.name != card.name]
    if failed:
        print(f"tracebacks: {prepared.ledger.folder / ERROR_LOG}")
        print("no comparison: some cells failed; the same command tries them again")
    else:
        _print_comparisons([*shipped, Submission.of(card, records)], prepared, records)
    cells = {record.cell: record for record in records}
    if any(cell.adaptation in OPTIONAL for cell in cells):
        # Beside what an earlier call ran on these tasks.
        all_cells = {**prepared.existing, **cells}.values()
        known = tuple(record for record in all_cells if record.task.name in prepared.data)
        print_table(*tabulate(compare_records(Submission.of(card, known))))
    print(f"records: {prepared.ledger.path}")


def _print_comparisons(
    submissions: Sequence[Submission], prepared: Prepared, records: Sequence[Record]
) -> None:
    """Beside those that have all the cells; then, of two kinds of tasks, on classification alone.

    The shipped baselines lack the optional adaptations, and some of them give no feature maps.
    """
    from medtransfer.ranking import summary

    name, protocol = prepared.encoder.card.name, prepared.protocol
    cells = {record.cell: record.task.kind for record in records}
    chosen = {cell for cell in cells if cell.adaptation not in OPTIONAL} or set(cells)
    classes = {cell for cell in chosen if cells[cell] != "segmentation"}
    shown = 0
    for part, only in ((chosen, ""), (classes, ", classification only")):
        compared = summary(
            submissions,
            cells=part,
            protocol=protocol,
            fingerprints={task: data.fingerprint for task, data in prepared.data.items()},
        )
        if len(compared) > shown:
            beside = "beside the shipped baselines" if len(compared) > 1 else "alone"
            ran = ", ".join(dict.fromkeys(cell.adaptation for cell in cells if cell in part))
            title = f"{name} {beside}, protocol {protocol.name}{only}; means over {ran}"
            print_comparison(compared, own=name, title=title)
        shown = max(shown, len(compared))
    if shown == 1:
        print("No shipped baseline has these cells, so there is nothing to compare with.")
    print(
        "In-domain, out-of-domain: score, 0 is chance, 1 is perfect. Tasks: in-domain AUROC, "
        "0.5 is chance; of masks Dice."
    )
