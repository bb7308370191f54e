"""A published study as Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medtransfer.core.text import MISSING, escape, pipe_table, quantity
from medtransfer.ranking.published.board import PublishedBoard
from medtransfer.ranking.published.findings import LEGEND, describe_findings
from medtransfer.ranking.report.markdown import join, tabulate_leaders
from medtransfer.ranking.report.task_tables import render_results

_ABOUT = """\
Published results, not measured here. Protocol, test sets and preprocessing are the study's own, so
nothing here may be compared with another board. Scores are (m - chance) / (1 - chance) of the
primary metric m, averaged over draws, budgets, targets and domains; a score is missing unless every
cell of it is there.
"""


def render_study(board: PublishedBoard) -> str:
    """All of a study; the same study gives the same bytes."""
    study = board.study
    ranked = int(board.table["rank"].notna().sum())
    overall = [column for column in board.columns if column.section == "overall"]
    return join(
        f"# {escape(study.title)}\n",
        f"{escape(study.citation)}. Licence: {escape(study.licence)}. {escape(study.url)}\n",
        _ABOUT,
        "".join(f"- {escape(note)}\n" for note in board.notes),
        "## Intra and inter transfer\n",
        f"{ranked} of {len(board.table)} encoders have every cell and are ranked. Intra and inter "
        "scores are over the targets that are so for the encoder: compare encoders of one domain "
        "there, and all of them in the tables by target domain.\n",
        tabulate_leaders(board.table, overall, most=len(board.table)),
        *_domains(board),
        *_findings(board),
        *_tasks(board),
    )


def _domains(board: PublishedBoard) -> list[str]:
    """Scores and ranks on the targets of each domain, with all images and with few."""
    head = ["Encoder", "Transfer", "Full", "Rank", "Few-shot", "Rank"]
    parts = []
    for domain, part in board.domains.groupby("domain", sort=False):
        relations = dict(zip(part["encoder"], part["relation"].fillna("unknown"), strict=True))
        cells = {(row.encoder, row.regime): _place(row) for row in part.itertuples()}
        order = [*part.loc[part["regime"] == "full", "encoder"], *part["encoder"]]
        nothing = (MISSING, MISSING)
        rows = [
            [escape(name), relations[name]]
            + [
                text
                for regime in ("full", "few-shot")
                for text in cells.get((name, regime), nothing)
            ]
            for name in dict.fromkeys(order)
        ]
        table = pipe_table(head, rows, align="llrrrr")
        parts.append(f"## Targets of {escape(domain)}\n\n{table}")
    return parts


def _place(row: Any) -> tuple[str, str]:
    """Score and rank."""
    if pd.isna(row.score):
        return f"{row.have}/{row.expected} cells", MISSING
    return quantity(row.score, "score"), str(row.rank)


def _findings(board: PublishedBoard) -> list[str]:
    """Each finding with its verdict, what it rests on, and its comparisons, folded away."""
    parts = []
    for finding in describe_findings(board.study, board.findings):
        parts += [
            f"## Finding: {escape(finding['title'])}\n",
            f"**{'Shown' if finding['shown'] else 'Not shown'}.** {escape(finding['text'])}\n",
            "".join(f"- {escape(line)}\n" for line in finding["lines"]),
            "<details><summary>Comparisons</summary>\n",
            pipe_table(
                finding["head"],
                [list(map(escape, row)) for row in finding["rows"]],
                align="llllrrrrl",
            ),
            "</details>\n",
        ]
    return [*parts, f"{LEGEND}\n"] if parts else []


def _tasks(board: PublishedBoard) -> list[str]:
    """Mean and standard deviation over the draws on every target, by each metric."""
    parts = []
    for name, title in board.tasks.items():
        parts.append(f"## {escape(name)}\n")
        parts.append(f"{escape(title)}.\n" if title else "")
        parts += render_results(board.by_metric(name), board.table.index, folded="Other metrics")
    return parts
