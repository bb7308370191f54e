"""Coverage of a suite: only the cells that a submission has are verified."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from medtransfer.evaluation.cells import plan_cells
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import TaskCard, find_task, load_suites, load_tasks
from medtransfer.verification.report import Check


@dataclass(frozen=True)
class Coverage:
    """Ranked cells of one protocol.

    Attributes:
        protocol: Its name.
        of: The tasks counted, in words.
        planned: Number of their cells.
        missing: Cells that the submission lacks.
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
    """Compare the cells of a submission with the suite of its tasks, for each protocol.

    Args:
        cells: Settled cells of the submission, with the name of their protocol.
        tasks: Cards of its tasks; if no suite has them all, these alone are counted.
        protocols: Those of its records.
    """
    name, cards = _find_suite(tasks)
    coverages = []
    for protocol in protocols:
        planned = plan_cells(cards, protocol).cells
        missing = tuple(cell for cell in planned if (protocol.name, cell) not in cells)
        coverages.append(Coverage(protocol.name, name, len(planned), missing))
    return coverages


def _find_suite(tasks: Mapping[str, TaskCard]) -> tuple[str, Mapping[str, TaskCard]]:
    """Choose the suite of exactly these tasks, else the first that contains them."""
    suites = load_suites()
    fitting = [name for name, suite in suites.items() if set(tasks) <= set(suite.tasks)]
    fitting.sort(key=lambda name: set(suites[name].tasks) != set(tasks))
    if not (tasks and fitting):
        return "these tasks", tasks
    all_cards = load_tasks()
    cards = {
        task: tasks.get(task) or find_task(task, all_cards) for task in suites[fitting[0]].tasks
    }
    return f"suite {fitting[0]}", {task: card for task, card in cards.items() if card is not None}


def check_coverage(coverages: Iterable[Coverage]) -> Check:
    """Report the number of cells; a missing one is not a problem."""
    titles: list[str] = []
    notes: list[str] = []
    for coverage in coverages:
        present = coverage.planned - len(coverage.missing)
        titles.append(
            f"{present} of {coverage.planned} ranked cells of {coverage.of}, protocol "
            f"{coverage.protocol}"
        )
        notes += _name_missing(coverage.missing)
    return Check(f"coverage: {'; '.join(titles) or 'nothing'}", (), tuple(notes))


def _name_missing(cells: tuple[Cell, ...]) -> Iterator[str]:
    if cells:
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        yield f"missing: {', '.join(map(str, cells[:3]))}{more}"
