"""Progress of downloads and jobs: a bar on a terminal, elsewhere a line for each finished step."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.status import Status

from medtransfer.cli.tables import console
from medtransfer.core.progress import JobProgress
from medtransfer.data.files.remote import Progress, RemoteFile

_LARGE = 2**28  # bytes of a split that take more than a moment to decode
_LINES = 20  # of a job whose steps are finished several at a time
_DESCRIPTION = TextColumn("{task.description}")
_JOB = (TextColumn("{task.fields[count]}"), BarColumn(), TimeRemainingColumn(), _DESCRIPTION)
_DOWNLOAD = (
    _DESCRIPTION,
    BarColumn(),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


class ConsoleProgress(JobProgress, Progress):
    """Progress of jobs and of data on the console; leaving the context removes the bar."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._bar: Bar | None = None
        self._status: Status | None = None
        self._done = self._total = self._shown = 0
        self._unit = ""

    def __enter__(self) -> ConsoleProgress:
        """Show nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.end()

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(escape(line), highlight=False)
        else:
            print(line, flush=True)

    def warn(self, message: str) -> None:
        """Print a note."""
        self.say(f"note: {message}")

    def begin(self, total: int, done: int = 0, *, unit: str, work: float | None = None) -> None:
        """Show how much there is to do."""
        self.end()  # only one display may be live
        self._total, self._done, self._shown, self._unit = total, done, done, unit
        if done:
            self.say(f"resuming: {done} of {total} {unit} are finished already")
        self._open(*_JOB, total=total - done if work is None else work, count=self._count)

    @property
    def _count(self) -> str:
        return f"{self._done}/{self._total} {self._unit}"

    def started(self, step: str) -> None:
        """Name the step under way."""
        self._update(description=escape(step))

    def finished(
        self, line: str, *, steps: int = 1, work: float | None = None, failed: bool = False
    ) -> None:
        """Move the bar, or print a line; a failure is always printed."""
        self._done += steps
        text = f"[{self._done}/{self._total}] {line}"
        due = self._done - self._shown >= self._total / _LINES or self._done == self._total
        if failed or (self._bar is None and (steps == 1 or due)):
            self._shown = self._done
            self.say(text)
        advance = steps if work is None else work
        self._update(advance=advance, count=self._count, description=escape(line))

    def end(self) -> None:
        """Remove the bar."""
        if self._status is not None:
            self._status.stop()
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._status = None

    def announce(self, file: RemoteFile, url: str) -> None:
        """Print name, size, address and licence of a download."""
        self.end()
        self._shown = 0
        size = f", at most {_megabytes(file.at_most)}" if file.at_most else ""
        self.say(f"downloading {file.name}{size} from {url}")
        self.say(f"  licence: {file.licence}")
        self._open(*_DOWNLOAD, total=None, description=escape(file.name))

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """Move the bar, or print a line for each tenth."""
        self._update(completed=done, total=total)
        tenth = 10 * done // total if total else 0
        if self._bar is None and total and tenth > self._shown:
            self._shown = tenth
            print(f"{file.name}: {tenth}0 % of {_megabytes(total)}", flush=True)

    def finish(self, file: RemoteFile) -> None:
        """Remove the bar."""
        self.end()

    def decode(self, what: str, size: int) -> None:
        """Name what is decoded; without a terminal only where it takes a while."""
        line = f"decoding {what}, {_megabytes(size)}"
        if console.is_terminal and self._bar is None:
            self._status = self._status or console.status("")
            self._status.start()
            self._status.update(escape(line))
        elif size >= _LARGE:
            self.say(line)

    def _open(
        self, *columns: ProgressColumn, total: float | None, count: str = "", description: str = ""
    ) -> None:
        if console.is_terminal:
            self._bar = Bar(*columns, console=console, transient=True)
            self._bar.add_task(description, total=total, count=count)
            self._bar.start()

    def _update(self, **changes: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], **changes)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
