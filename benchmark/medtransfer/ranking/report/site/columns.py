"""Columns that the page shows, by section."""

from __future__ import annotations

from medtransfer.ranking.boards.board import Board

# What a board's table has beside the columns of its registry: name, title, unit, section.
_FURTHER = (
    ("other_tasks", "On other tasks", "text", "overall"),
    ("mean_rank", "Mean rank", "mean rank", "overall"),
    ("win_rate", "Win rate", "share", "overall"),
    ("status", "Status", "text", "overall"),
    ("contamination", "Contamination", "text", "transfer"),
    ("clean_score", "Clean score", "score", "transfer"),
    ("clean_rank", "Clean rank", "rank", "transfer"),
)


def page_columns(board: Board) -> list[dict[str, str | None]]:
    """Columns in their order: name, title, unit, section and domain.

    Those that are empty for all encoders are left out, but for the first, which ranks.
    """
    columns: list[dict[str, str | None]] = [
        {
            "name": column.name,
            "title": column.title,
            "unit": column.unit,
            "section": column.section,
            "domain": column.domain,
        }
        for column in board.columns
    ]
    further: list[dict[str, str | None]] = [
        {"name": name, "title": title, "unit": unit, "section": section, "domain": None}
        for name, title, unit, section in _FURTHER
    ]
    filled = set(board.table.columns[board.table.notna().any()])
    return columns[:1] + [column for column in columns[1:] + further if column["name"] in filled]
