"""Make tables, Markdown and CSV of records. Imports pandas, never torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medtransfer.core.errors import InputError, suggest
from medtransfer.core.text import escape, quantity
from medtransfer.ranking.boards.adaptations import compare_records, tabulate
from medtransfer.ranking.boards.board import Board, boards
from medtransfer.ranking.boards.comparison import Difference, compare_pair, shared_cells
from medtransfer.ranking.boards.layout import Layout, lay_out
from medtransfer.ranking.boards.summary import summary
from medtransfer.ranking.predictions.predictions import (
    tabulate_tasks,
    tabulate_validation,
    validate_submissions,
)
from medtransfer.ranking.predictions.score_validation import ScoreValidation, validate_scores
from medtransfer.ranking.predictions.scores_csv import read_outcomes, read_scores_csv
from medtransfer.ranking.predictions.trajectories import (
    Studied,
    Trajectory,
    study_trajectories,
    tabulate_picks,
    tabulate_points,
    tabulate_trajectories,
    trajectory_rows,
)
from medtransfer.ranking.published.board import load_published
from medtransfer.ranking.records.parallel import without_collection
from medtransfer.ranking.records.submissions import (
    PUBLISHED,
    Submission,
    load_submission,
    load_submissions,
)
from medtransfer.ranking.report.files import (
    check_leaderboard,
    has_charts,
    render_csv,
    tidy,
    write_leaderboard,
)
from medtransfer.ranking.report.overview import render_markdown
from medtransfer.specs.protocol import Protocol, list_protocols, load_protocol
from medtransfer.specs.task import TaskCard, find_task, load_suites, load_tasks

__all__ = [
    "PUBLISHED",
    "Board",
    "Difference",
    "ScoreValidation",
    "Layout",
    "Studied",
    "Submission",
    "Trajectory",
    "boards",
    "check_leaderboard",
    "load_published",
    "compare",
    "compare_records",
    "draw_trajectories",
    "escape",
    "has_charts",
    "validate_scores",
    "validate_submissions",
    "leaderboard",
    "load_submission",
    "load_submissions",
    "quantity",
    "read_outcomes",
    "read_scores_csv",
    "render_csv",
    "render_markdown",
    "shared_cells",
    "shipped_boards",
    "study_trajectories",
    "summary",
    "tabulate",
    "tabulate_validation",
    "tabulate_picks",
    "tabulate_points",
    "tabulate_tasks",
    "tabulate_trajectories",
    "tidy",
    "without_collection",
    "write_leaderboard",
]


def shipped_boards(submissions: Sequence[Submission], *, processes: int = 1) -> list[Board]:
    """Make the boards of the shipped protocols and suites, v1 (the benchmark) first."""
    cards = _suite_cards()
    return boards(
        submissions,
        load_suites(),
        _protocols(),
        kinds={task: card.kind for task, card in cards.items()},
        lineages={task: card.corpora for task, card in cards.items()},
        titles={task: card.title for task, card in cards.items()},
        processes=processes,
    )


def compare(
    submissions: Sequence[Submission], first: str, second: str
) -> list[tuple[Layout, list[Difference]]]:
    """Compare two encoders on every shipped protocol and suite where both have results.

    Raises:
        InputError: For an encoder without a submission, or two that share no cell.
    """
    by_name = {submission.card.name: submission for submission in submissions}
    for name in (first, second):
        if name not in by_name:
            raise InputError(f"no submission of encoder '{name}'{suggest(name, by_name)}")
    if first == second:
        raise InputError(f"'{first}' twice; name two encoders")
    comparisons = []
    both = [by_name[first], by_name[second]]
    kinds = {task: card.kind for task, card in _suite_cards().items()}
    for layout in lay_out(both, load_suites(), _protocols(), kinds=kinds, single=True):
        if layout.kind or len(layout.submissions) < 2:  # a part is among the views of the whole
            continue
        if differences := compare_pair(layout.ranked, layout.replicates, first, second):
            comparisons.append((layout, differences))
    if not comparisons:
        raise InputError(
            f"'{first}' and '{second}' share no complete task, budget and adaptation of a protocol"
        )
    return comparisons


def draw_trajectories(studied: Studied) -> str:
    """Draw the figure of trajectories as SVG. Needs the extra ``page``."""
    # The charting library takes a second to load.
    from medtransfer.ranking.report.charts import draw

    rows, title = trajectory_rows(studied)
    return draw("trajectories", rows, title=title)


def _protocols() -> dict[str, Protocol]:
    names = sorted(list_protocols(), key=lambda name: name != "v1")
    return {name: load_protocol(name) for name in names}


def _suite_cards() -> dict[str, TaskCard]:
    cards = load_tasks()
    tasks = {task for suite in load_suites().values() for task in suite.tasks}
    cards_by_name = {task: find_task(task, cards) for task in sorted(tasks)}
    return {task: card for task, card in cards_by_name.items() if card}


def leaderboard(submissions: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Rank the submissions in one or more folders: one row per board and encoder.

    Raises:
        InputError: When a folder, a card or a record is wrong.

    Examples:
        >>> import medtransfer
        >>> records = medtransfer.evaluate(
        ...     "pixels",
        ...     tasks=["phantom_ct"],
        ...     budgets=["1-shot"],
        ...     adaptations=["knn"],
        ...     protocol="quick",
        ...     out="results",
        ... )
        >>> board = medtransfer.leaderboard("results")
        >>> board[["protocol", "suite", "encoder"]].values.tolist()
        [['quick', 'phantom', 'pixels']]
    """
    folders = [submissions] if isinstance(submissions, str | Path) else submissions
    return tidy(shipped_boards(load_submissions([Path(folder) for folder in folders])))
