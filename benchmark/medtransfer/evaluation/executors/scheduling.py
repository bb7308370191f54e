"""Schedule cells, and retry those whose worker died. Knows no executor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from medtransfer.evaluation.runner import Finished
from medtransfer.specs.record import Cell

TRIALS = 3  # crashes after which a cell counts as failed, whatever the cause


@dataclass(frozen=True)
class WorkerCrash:
    """End of a process in the middle of a cell; the reason is for people."""

    reason: str


class Executor(Protocol):
    """Interface of executors. They write no files: results go back to the driver."""

    def slots(self) -> int:
        """Count the cells that may run at a time; the number may change during a run."""

    def submit(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Begin a cell; see `Runner.run`."""

    def wait(self) -> list[tuple[Cell, Finished | WorkerCrash]]:
        """Wait until some cells have ended, or for a while."""

    def close(self) -> None:
        """Stop all running cells."""


def schedule(
    cells: Sequence[Cell],
    executor: Executor,
    *,
    selected: dict[Cell, dict[str, Any]],
    started: Callable[[Cell], None],
    fail: Callable[[Cell, str], Finished],
) -> Iterator[Finished]:
    """Run cells and yield each as it ends.

    A cell whose process died is run again, if possible elsewhere. After three crashes it counts as
    failed, and the others continue.

    Args:
        cells: In the order in which they should begin.
        executor: Where they run.
        selected: What draws have selected so far, for those that reuse it.
        started: Called when a cell begins.
        fail: Makes the record of a cell that is given up.
    """
    queue, running = list(cells), set[Cell]()
    crashes: Counter[Cell] = Counter()

    def fill() -> None:
        """Begin as many cells as there are free slots."""
        free = executor.slots() - len(running)
        waiting = {*queue, *running}
        for cell in queue[:]:
            if free <= 0:
                break
            if cell.reuses_rate and cell.first in waiting:
                continue
            queue.remove(cell)
            running.add(cell)
            free -= 1
            started(cell)
            executor.submit(cell, selected.get(cell.first))

    fill()
    while running:
        ended = []
        for cell, result in executor.wait():
            running.discard(cell)
            if isinstance(result, WorkerCrash):
                crashes[cell] += 1
                if crashes[cell] < TRIALS:
                    queue.insert(0, cell)
                    continue
                result = fail(cell, f"{result.reason}, {TRIALS} times")
            selected[cell] = result.record.selected
            ended.append(result)
        fill()  # before the results are saved, so that no worker waits for the disk
        yield from ended
