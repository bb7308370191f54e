"""From records to tables, Markdown and CSV. Knows records only: pandas, never torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medtransfer.ranking.adaptations import compare_records, tabulate
from medtransfer.ranking.board import Board, boards
from medtransfer.ranking.files import check_leaderboard, render_csv, tidy, write_leaderboard
from medtransfer.ranking.frame import frame
from medtransfer.ranking.markdown import render_markdown
from medtransfer.ranking.submissions import Submission, load_submission, load_submissions
from medtransfer.ranking.summary import summary
from medtransfer.ranking.text import escape, quantity
from medtransfer.specs.protocol import list_protocols, load_protocol
from medtransfer.specs.task import find_task, load_suites, load_tasks

__all__ = [
    "Board",
    "Submission",
    "boards",
    "check_leaderboard",
    "compare_records",
    "escape",
    "frame",
    "leaderboard",
    "load_submission",
    "load_submissions",
    "quantity",
    "render_csv",
    "render_markdown",
    "shipped_boards",
    "summary",
    "tabulate",
    "tidy",
    "write_leaderboard",
]


def shipped_boards(submissions: Sequence[Submission]) -> list[Board]:
    """The boards of the shipped protocols and suites; those of v1, the benchmark, come first."""
    names = sorted(list_protocols(), key=lambda name: name != "v1")
    suites, cards = load_suites(), load_tasks()
    found = {task: find_task(task, cards) for suite in suites.values() for task in suite.tasks}
    return boards(
        submissions,
        suites,
        {name: load_protocol(name) for name in names},
        kinds={task: card.kind for task, card in found.items() if card},
    )


def leaderboard(submissions: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Rank the submissions in one or more folders: one row per board and encoder.

    Raises:
        InputError: When a folder, a card or a record is wrong.
    """
    folders = [submissions] if isinstance(submissions, str | Path) else submissions
    return tidy(shipped_boards(load_submissions([Path(folder) for folder in folders])))
