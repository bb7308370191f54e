"""How much of a suite a submission has: what is verified are the cells that are there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from medtransfer.evaluation.cells import plan_cells
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import TaskCard, find_task, load_suites, load_tasks
from medtransfer.verification.report import Check

__all__ = ["Coverage", "check_coverage", "measure_coverage"]


@dataclass(frozen=True)
class Coverage:
    """The ranked cells of one protocol.

    Attributes:
        protocol: Its name.
        of: Which tasks were counted, in words.
        planned: How many cells these have.
        missing: Those that the submission lacks.
    """

    protocol: str
    of: str
    planned: int
    missing: tuple[Cell, ...]


def measure_coverage(
    cells: Collection[tuple[str, Cell]],
    tasks: Mapping[str, TaskCard],
    protocols: Iterable[Protocol],
) -> list[Coverage]:
    """Compare what is there with the suite that the tasks are of, for each protocol.

    Args:
        cells: Those of the submission that are settled, with the name of their protocol.
        tasks: Cards of its tasks; those that are of no one suite are counted alone.
        protocols: Those of its records.
    """
    name, cards = _find_suite(tasks)
    found = []
    for protocol in protocols:
        planned = plan_cells(cards, protocol).cells
        missing = tuple(cell for cell in planned if (protocol.name, cell) not in cells)
        found.append(Coverage(protocol.name, name, len(planned), missing))
    return found


def _find_suite(tasks: Mapping[str, TaskCard]) -> tuple[str, Mapping[str, TaskCard]]:
    """The suite of just these tasks, or the first that has them all, as the boards have it."""
    suites = load_suites()
    fitting = [name for name, suite in suites.items() if set(tasks) <= set(suite.tasks)]
    fitting.sort(key=lambda name: set(suites[name].tasks) != set(tasks))
    if not (tasks and fitting):
        return "these tasks", tasks
    known = load_tasks()
    cards = {task: tasks.get(task) or find_task(task, known) for task in suites[fitting[0]].tasks}
    return f"suite {fitting[0]}", {task: card for task, card in cards.items() if card is not None}


def check_coverage(coverages: Iterable[Coverage]) -> Check:
    """How many cells are there; a missing one is no fault."""
    titles: list[str] = []
    notes: list[str] = []
    for coverage in coverages:
        there = coverage.planned - len(coverage.missing)
        titles.append(
            f"{there} of {coverage.planned} ranked cells of {coverage.of}, protocol "
            f"{coverage.protocol}"
        )
        notes += _name_missing(coverage.missing)
    return Check(f"coverage: {'; '.join(titles) or 'nothing'}", (), tuple(notes))


def _name_missing(cells: tuple[Cell, ...]) -> Iterator[str]:
    if cells:
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        yield f"missing: {', '.join(map(str, cells[:3]))}{more}"
