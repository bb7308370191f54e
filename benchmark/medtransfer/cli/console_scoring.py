"""What `bench score` shows: progress, scores, and how well they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medtransfer.cli.console import console, print_table
from medtransfer.core.errors import plain
from medtransfer.transferability.evaluation import ScoringProgress

if TYPE_CHECKING:
    from medtransfer.ranking import ScoreValidation, Studied
    from medtransfer.specs.score import ScoreRecord

__all__ = ["ConsoleScoring", "print_judgement", "print_scores", "print_trajectories"]

_MISSING = "-"
_READING = (
    "In parentheses 95 % intervals, {items} and tasks drawn anew. Weighted tau: agreement of the "
    "two rankings, in which the top counts most. Regret: the best {item}'s metric less that of "
    "the one with the highest score, among those that have the score."
)


class ConsoleScoring(ScoringProgress):
    """A bar on a terminal; elsewhere a line for each encoder and task."""

    def __init__(self) -> None:
        """Show nothing until the work begins."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._done = self._total = 0

    def begin(self, total: int) -> None:
        """Show how much there is to do."""
        self._total = total
        if console.is_terminal:
            columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def advance(self, encoder: str, task: str, *, made: int, kept: int) -> None:
        """Move the bar, or print a line."""
        self._done += 1
        what = f"{made} new" + (f", {kept} kept from before" if kept else "")
        line = f"[{self._done}/{self._total}] {encoder}, {task}: {what}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=escape(line))
        else:
            print(line, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def print_scores(records: Sequence[ScoreRecord]) -> None:
    """Print a table a task, one row an encoder, one column a score; and what is undefined."""
    tasks = dict.fromkeys(record.task.name for record in records)
    for task in tasks:
        own = [record for record in records if record.task.name == task]
        own = [record for record in own if "[" not in record.score]
        names = list(dict.fromkeys(record.score for record in own))
        rows = []
        for encoder in dict.fromkeys(record.encoder.name for record in own):
            values = {r.score: r.value for r in own if r.encoder.name == encoder}
            rows.append((encoder, *(_number(values.get(name)) for name in names)))
        print_table((task, *names), rows)
    if swept := [record for record in records if "[" in record.score]:
        print(f"and {len(swept)} of the sweep, in scores.jsonl beside the others")
    reasons: dict[str, list[ScoreRecord]] = {}
    for record in records:
        if record.undefined and "[" not in record.score:
            reasons.setdefault(f"{record.score} is undefined: {record.undefined}", []).append(
                record
            )
    everybody = {record.encoder.name for record in records}
    for reason, found in reasons.items():
        encoders = {record.encoder.name for record in found}
        of = "all encoders" if encoders == everybody else ", ".join(sorted(encoders))
        tasks_of = ", ".join(dict.fromkeys(record.task.name for record in found))
        print(plain(f"{reason} ({of}; {tasks_of})"))


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4g}"


def print_judgement(judgement: ScoreValidation, out: Path | None, *, protocol: str = "") -> None:
    """Print how well scores did, task by task and over all."""
    from medtransfer.ranking import tabulate_tasks, tabulate_validation

    if judgement.summary.empty:
        where = f": of bench evaluate --protocol {protocol} --out {out}" if out is not None else ""
        print(f"not judged: that needs 3 encoders with scores and outcomes on one task{where}")
        return
    head, rows = tabulate_tasks(judgement)
    if len(rows) <= 60:
        print_table(head, rows)
    head, rows = tabulate_validation(judgement.summary)
    print_table(head, rows)
    print(_READING.format(item="encoder", items="encoders"))


def print_trajectories(studied: Studied, *, protocol: str) -> None:
    """Print scores and outcomes along pre-training, what each score picks, and how well it did."""
    from medtransfer import ranking

    for table in ranking.tabulate_points(studied):
        print_table(*table)
    print_table(*ranking.tabulate_picks(studied))
    if studied.validation.summary.empty:
        print(
            "not judged: that needs outcomes of at least 3 checkpoints "
            f"(bench evaluate --protocol {protocol})"
        )
        return
    print_table(*ranking.tabulate_trajectories(studied))
    print(_READING.format(item="checkpoint", items="checkpoints"))
    outcomes = studied.points[studied.points["kind"] == "outcome"].dropna(subset=["value"])
    judged, every = (points["encoder"].nunique() for points in (outcomes, studied.points))
    if judged < every:
        print(f"Judged, with the epochs saved, among the {judged} of {every} that have outcomes.")
