"""What `bench pretrain` shows: progress, and what a run cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medtransfer.cli.console import console, print_table
from medtransfer.pretraining.progress import PretrainingProgress

if TYPE_CHECKING:
    from medtransfer.pretraining.plan import Plan
    from medtransfer.specs.encoder import EncoderCard

__all__ = ["ConsolePretraining", "print_costs"]

_LINES = 20  # of a whole run, where there is no terminal


class ConsolePretraining(PretrainingProgress):
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        """Show nothing until the run begins."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._plan: Plan | None = None
        self._shown = 0

    def begin(self, plan: Plan, step: int, notes: Sequence[str]) -> None:
        """Say what is trained on what, and from where."""
        self._plan, self._shown = plan, step
        for note in (*plan.notes, *notes):
            print(f"note: {note}")
        pool = plan.pool
        tasks = ", ".join(f"{source.card.name} ({len(source.items)})" for source in pool.sources)
        print(
            f"{plan.start.card.name}: {plan.recipe.name} on {tasks}, {plan.epochs} epochs, "
            f"{plan.steps} steps of {pool.batch_size} images, trainable {plan.trainable.text}"
        )
        if plan.overlaps:
            print(
                f"note: what it has seen then shares corpora with {', '.join(plan.overlaps)}; the "
                "card says so, and where it is ranked the leaderboard"
            )
        if step:
            print(f"goes on after step {step}", flush=True)
        if console.is_terminal:
            columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("", total=plan.steps, completed=step)
            self._bar.start()

    def advance(self, step: int, loss: float) -> None:
        """Move the bar, or print a line."""
        plan = self._plan
        assert plan is not None
        epoch = step * plan.pool.batch_size / len(plan.pool)
        line = f"epoch {epoch:.1f} of {plan.epochs}: loss {loss:.4f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=escape(line))
        elif step == plan.steps or step - self._shown >= plan.steps / _LINES:
            self._shown = step
            print(line, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def print_costs(cards: Sequence[EncoderCard]) -> None:
    """Print what making some encoders took, one row each."""
    from medtransfer.ranking import quantity

    head = ("encoder", "trained", "images seen", "FLOPs", "time", "s a step", "memory")
    rows = []
    for card in cards:
        run = card.pretraining.run
        if run is None:
            continue
        rows.append(
            (
                card.name,
                card.trained,
                f"{run.images_seen:,}",
                quantity(run.flops, "FLOP"),
                quantity(run.seconds, "seconds"),
                f"{run.seconds / run.steps:.3f}" if run.steps else "-",
                quantity(run.peak_memory_bytes or float("nan"), "bytes"),
            )
        )
    print_table(head, rows)
