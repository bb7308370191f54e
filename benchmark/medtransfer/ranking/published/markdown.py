"""Published boards as Markdown: a section of the leaderboard's README, after what was measured."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd

from medtransfer.core.text import MISSING, escape, pipe_table, quantity
from medtransfer.ranking.published.board import VIEWS, Published, PublishedBoard, published_board
from medtransfer.ranking.published.text import (
    HOW_FINDINGS_ARE_READ,
    claims,
    holds,
    summarise,
    tabulate_comparisons,
    tabulate_target,
)

__all__ = ["render_published"]

_HEAD = """\
## Published results, not measured here

From the tables of published studies, read by `bench import`. Protocols, test sets and preprocessing
are each study's own, so nothing here may be compared with the boards above, or across studies.
Scores are (m - chance) / (1 - chance) of the primary metric m, averaged over draws, budgets,
targets and domains; a score is missing unless every cell of it is there.
"""


def render_published(studies: Sequence[Published]) -> str:
    """The whole section; empty without studies. The same studies give the same bytes."""
    if not studies:
        return ""
    return "\n".join([_HEAD, *(_board(published_board(published)) for published in studies)])


def _board(board: PublishedBoard) -> str:
    study = board.study
    parts = [
        f"### {escape(study.title)}\n",
        f"{escape(study.citation)}. Licence: {escape(study.licence)}. {escape(study.url)}\n",
        "".join(f"- {escape(note)}\n" for note in study.remarks),
        _overall(board),
        *_domains(board),
        *_findings(board),
        *_tasks(board),
    ]
    return "\n".join(part for part in parts if part)


def _overall(board: PublishedBoard) -> str:
    """Every encoder and view; the unranked ones stay below, with what they have."""
    ranked = int(board.table["rank"].notna().sum())
    head = ["Rank", "Encoder", *(title for title, _ in VIEWS.values()), "Parameters", "Cells"]
    rows = [
        [
            MISSING if pd.isna(row["rank"]) else str(row["rank"]),
            escape(encoder),
            *(quantity(row[view], "score") for view in VIEWS),
            quantity(row["parameters"], "count"),
            f"{row['have']} of {row['expected']}",
        ]
        for encoder, row in board.table.iterrows()
    ]
    return (
        f"#### Intra and inter transfer\n\n{ranked} of {len(board.table)} encoders have every cell "
        "and are ranked. Intra and inter are over the targets that are so for the encoder: compare "
        "encoders of one domain there, and all of them in the tables by target domain.\n\n"
        + pipe_table(head, rows, align="rl" + "r" * (len(head) - 2))
    )


def _domains(board: PublishedBoard) -> list[str]:
    parts = []
    for domain, part in board.domains.groupby("domain", sort=False):
        few = part[part["regime"] == "few-shot"].set_index("encoder")
        full = part[part["regime"] == "full"].set_index("encoder")
        order = dict.fromkeys([*full.index, *few.index])
        rows = []
        for encoder in order:
            own = [table.loc[encoder] for table in (full, few) if encoder in table.index]
            rows.append(
                [
                    escape(encoder),
                    "unknown" if pd.isna(own[0]["relation"]) else own[0]["relation"],
                    *(cell for table in (full, few) for cell in _standing(table, encoder)),
                ]
            )
        head = ["Encoder", "Transfer", "Full", "Rank", "Few-shot", "Rank"]
        parts.append(
            f"#### Targets of {escape(domain)}\n\n" + pipe_table(head, rows, align="llrrrr")
        )
    return parts


def _standing(table: pd.DataFrame, encoder: str) -> tuple[str, str]:
    if encoder not in table.index:
        return MISSING, MISSING
    row = table.loc[encoder]
    if pd.isna(row["score"]):
        return f"{row['have']}/{row['expected']} cells", MISSING
    return quantity(row["score"], "score"), str(row["rank"])


def _findings(board: PublishedBoard) -> list[str]:
    """Each finding with its verdict, what it rests on, and its comparisons, folded away."""
    parts = []
    for finding, rows in claims(board):
        verdict = "Shown" if holds(rows) else "Not shown"
        parts.append(
            f"#### Finding: {escape(finding.title)}\n\n**{verdict}.** {escape(finding.text)}\n"
        )
        parts.append("".join(f"- {escape(line)}\n" for line in summarise(rows)))
        head, lines = tabulate_comparisons(rows)
        table = _table(head, lines, align="llllrrrrl")
        parts += ["<details><summary>Comparisons</summary>\n", table, "</details>\n"]
    if parts:
        parts.append(f"{HOW_FINDINGS_ARE_READ}\n")
    return parts


def _tasks(board: PublishedBoard) -> list[str]:
    """For every target and metric mean and spread over draws; folded away."""
    parts = []
    for name, card in board.study.target_cards.items():
        title = " ".join(f"{name}: {card.title}".split())
        parts.append(f"<details><summary>{html.escape(title)}</summary>\n")
        for metric, head, rows in tabulate_target(board, name):
            parts.append(f"{escape(metric)}\n\n{_table(head, rows)}")
        parts.append("</details>\n")
    return parts


def _table(head: list[str], rows: list[list[str]], *, align: str | None = None) -> str:
    return pipe_table(head, [[escape(text) for text in row] for row in rows], align=align)
