"""Which columns of a board the page shows, and in which of its sections."""

from __future__ import annotations

from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.published.board import VIEWS, PublishedBoard

__all__ = ["page_columns", "study_columns"]

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
    own: list[dict[str, str | None]] = [
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
    return own[:1] + [column for column in own[1:] + further if column["name"] in filled]


def study_columns(board: PublishedBoard) -> list[dict[str, str | None]]:
    """The same of a study: its overall score first, which ranks, and its parts."""
    views = {name: title for name, (title, _) in VIEWS.items() if name != "overall"}
    columns = [("in_domain", "Score", "score", "overall", None)]
    columns += [(name, title, "score", "overall", None) for name, title in views.items()]
    columns += [("parameters", "Parameters", "count", "overall", None)]
    parts = board.domains[["domain", "regime"]].drop_duplicates()
    columns += [
        (f"{regime.replace('-', '_')}_{domain}", f"{domain}, {regime}", "score", "domains", domain)
        for domain, regime in parts.itertuples(index=False, name=None)
    ]
    names = ("name", "title", "unit", "section", "domain")
    return [dict(zip(names, column, strict=True)) for column in columns]
