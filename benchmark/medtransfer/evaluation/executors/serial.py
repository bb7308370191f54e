"""The serial executor: one cell after the other, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtransfer.evaluation.executors.scheduling import WorkerCrash
from medtransfer.evaluation.runner import Finished, Runner
from medtransfer.specs.record import Cell


class SerialExecutor:
    """One cell at a time, in this process."""

    def __init__(self, runner: Runner) -> None:
        """Take a runner."""
        self._runner = runner
        self._next: list[tuple[Cell, Mapping[str, Any] | None]] = []

    def slots(self) -> int:
        """Return 1: cells run one after the other."""
        return 1

    def submit(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Keep the cell for `wait`, which runs it."""
        self._next.append((cell, previous))

    def wait(self) -> list[tuple[Cell, Finished | WorkerCrash]]:
        """Run the cell."""
        cell, previous = self._next.pop()
        return [(cell, self._runner.run(cell, previous))]

    def close(self) -> None:
        """Do nothing: no cell is under way."""
