"""Published boards as Markdown: a section of the leaderboard's README, after what was measured."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import pandas as pd

from medtransfer.ranking.published import VIEWS, Published, PublishedBoard, published_board
from medtransfer.ranking.text import MISSING, escape, pipe_table, quantity
from medtransfer.specs.published import Study

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
        "".join(f"- {escape(note)}\n" for note in _notes(study)),
        _overall(board),
        *_domains(board),
        *_findings(board),
        *_tasks(board),
    ]
    return "\n".join(part for part in parts if part)


def _notes(study: Study) -> list[str]:
    notes = [f"Adaptation: {study.adaptation}.", *study.notes]
    for condition in study.left_out:
        notes.append(f"Left out, because {condition.reason}: rows with {condition}.")
    for mark, condition in study.marked.items():
        notes.append(f"† {mark}: {condition.reason}.")
    return notes


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
    for number, finding in enumerate(board.study.findings):
        rows = board.findings[board.findings["finding"] == number]
        shown = rows["verdict"].eq("as claimed").all()
        parts.append(
            f"#### Finding: {escape(finding.title)}\n\n**{'Shown' if shown else 'Not shown'}.** "
            f"{escape(finding.text)}\n"
        )
        parts.append("".join(f"- {line}\n" for line in _summary(rows)))
        parts += ["<details><summary>Comparisons</summary>\n", _comparisons(rows), "</details>\n"]
    if parts:
        parts.append(
            "A finding is shown when all of its comparisons are as claimed. Difference: first "
            "encoder minus second, over n draws that both have, with its 95 % interval (paired t). "
            "Not resolved: the interval holds 0. Place: of either encoder by the mean of that "
            "metric, among those with all draws.\n"
        )
    return parts


def _summary(rows: pd.DataFrame) -> list[str]:
    """One line per expectation: how many comparisons hold, and how large the differences are."""
    lines = []
    for (budget, metric, side), part in rows.groupby(["budget", "metric", "expected"], sort=False):
        counts = part["verdict"].value_counts()
        others = [
            f"{counts[verdict]} {verdict}"
            for verdict in ("opposite", "not resolved", "no data")
            if verdict in counts
        ]
        held = f"{counts.get('as claimed', 0)} of {len(part)} {side}"
        span = f"{_signed(part['difference'].min())} to {_signed(part['difference'].max())}"
        lines.append(
            f"{escape(budget)}, {escape(metric)}: {', '.join([held, *others])}; "
            f"difference {span if len(part) > 1 else _signed(part['difference'].iloc[0])}"
        )
    return lines


def _comparisons(rows: pd.DataFrame) -> str:
    head = ["Encoders", "Target", "Budget", "Metric", "Difference", "95 % interval", "n", "Place"]
    lines = [
        [
            f"{escape(row['a'])} - {escape(row['b'])}",
            escape(row["task"]),
            escape(row["budget"]),
            escape(row["metric"]),
            _signed(row["difference"]),
            f"{_signed(row['low'])} to {_signed(row['high'])}",
            str(row["n"]),
            f"{_place(row['rank_a'])}, {_place(row['rank_b'])} of {_place(row['ranked'])}",
            escape(row["verdict"]),
        ]
        for _, row in rows.iterrows()
    ]
    return pipe_table([*head, "Verdict"], lines, align="llllrrrrl")


def _signed(value: float) -> str:
    return MISSING if pd.isna(value) else f"{round(value, 3) + 0.0:+.3f}"


def _place(rank: float) -> str:
    return MISSING if pd.isna(rank) else f"{rank:.0f}"


def _tasks(board: PublishedBoard) -> list[str]:
    """For every target and metric mean and spread over draws; folded away."""
    parts = []
    for name, card in board.study.target_cards.items():
        own = board.results[board.results["task"] == name]
        title = " ".join(f"{name}: {card.title}".split())
        parts.append(f"<details><summary>{html.escape(title)}</summary>\n")
        for metric, part in own.groupby("metric", sort=False):
            primary = " (primary)" if metric == card.metric else ""
            parts.append(f"{escape(metric)}{primary}\n\n{_budgets(part, board)}")
        parts.append("</details>\n")
    return parts


def _budgets(part: pd.DataFrame, board: PublishedBoard) -> str:
    entries = {(row.encoder, row.budget): _result(row) for row in part.itertuples()}
    budgets = [b for b in board.study.ordered_budgets if b in set(part["budget"])]
    present = set(part["encoder"])
    rows = [
        [escape(encoder), *(entries.get((encoder, budget), MISSING) for budget in budgets)]
        for encoder in board.study.encoder_cards
        if encoder in present
    ]
    return pipe_table(["Encoder", *budgets], rows)


def _result(row: Any) -> str:
    if row.have < row.draws:
        return f"{row.have}/{row.draws} draws"
    spread = "" if pd.isna(row.std) else f" ± {row.std:.3f}"
    return f"{row.mean:.3f}{spread}{' †' if row.marked else ''}"
