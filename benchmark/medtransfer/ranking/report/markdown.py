"""One board as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from medtransfer.core.text import MISSING, escape, pipe_table, quantity
from medtransfer.ranking.boards.adaptations import tabulate
from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.boards.columns import Column, Section, spans
from medtransfer.ranking.predictions.predictions import tabulate_validation
from medtransfer.ranking.records.frame import KINDS
from medtransfer.ranking.report.figures import Figure, figures
from medtransfer.ranking.statistics.pareto import PRICES, best_under
from medtransfer.ranking.statistics.rank_statistics import verdicts
from medtransfer.specs.protocol import OPTIONAL
from medtransfer.specs.split_name import IN_DOMAIN

MOST = 30
"""Encoders in a table: GitHub truncates a page at half a megabyte."""


def render_board(board: Board) -> str:
    """Write all tables of a board but those of single tasks, byte for byte reproducible."""
    ranked = board.table[board.table["rank"].notna()]
    unranked = board.table[board.table["rank"].isna()]
    parts = [
        f"# {title(board)}\n",
        f"{escape(about(board))} {len(ranked)} of {len(board.table)} encoders are ranked. "
        f"Columns are explained in the [overview](../README.md#how-to-read-this).\n",
    ]
    if len(board.table) > MOST:
        parts.append(
            f"The tables show the first {MOST}; all are on the page, and their scores in "
            "`leaderboard.csv`.\n"
        )
    if board.kind:
        parts.append("Single tasks and figures are with the board of the whole suite.\n")
    if ranked.empty:
        parts.append("No encoder has every cell of this board yet.\n")
    else:
        drawn = {name: picture(figure, "../") for name, figure in figures(board).items()}
        parts += [
            "## Overall\n",
            tabulate_leaders(ranked, headline(board)),
            _uncertainty(board, ranked, drawn),
            "## In-domain score by domain\n",
            tabulate_leaders(ranked, _columns(board, "domains")),
            join("## Few-shot curves\n", drawn["curves"]) if "curves" in drawn else "",
            _transfer(board, ranked, drawn),
            _costs(board, ranked, drawn),
        ]
    if not board.kind:  # else they are with the board of the whole suite
        parts += [_predictions(board), _adaptations(board)]
    if len(unranked):
        parts.append(_unranked(board, unranked))
    if board.notes:
        parts.append("## Notes\n\n" + "".join(f"- {escape(note)}\n" for note in board.notes))
    return join(*parts)


def title(board: Board) -> str:
    """A heading: protocol, suite and kind."""
    only = f", {board.kind} only" if board.kind else ""
    return f"Protocol {escape(board.protocol)}, suite {escape(board.suite)}{only}"


def headline(board: Board) -> list[Column]:
    """Columns of the main table: every score but those of parts, and the cost beside them."""
    cost = [column for column in board.columns if column.name == "adaptation_flops"]
    return [*_columns(board, "overall"), *cost]


def about(board: Board) -> str:
    """The titles of protocol and suite."""
    titles = [board.title or "This protocol is not shipped", board.about]
    return " ".join(f"{title}." for title in titles if title)


def picture(figure: Figure, root: str = "") -> str:
    """An image with its caption; ``root`` leads from the page to the leaderboard's folder."""
    return f"![{escape(figure.alt)}]({root}{figure.name})\n\n{escape(figure.caption)}\n"


def join(*parts: str | None) -> str:
    """Join the parts that are not empty, one below the other."""
    return "\n".join(part for part in parts if part)


def _columns(board: Board, section: Section) -> list[Column]:
    return [column for column in board.columns if column.section == section]


def _uncertainty(board: Board, ranked: pd.DataFrame, drawn: Mapping[str, str]) -> str:
    """Intervals, tie groups and tests."""
    columns = _trust(ranked)
    rows = [
        [str(rank), escape(encoder), *(values[number] for values in columns.values())]
        for number, (encoder, rank) in enumerate(ranked["rank"].head(MOST).items())
    ]
    table = pipe_table(["Rank", "Encoder", *columns], rows, align="rl" + "r" * len(columns))
    said = "".join(f"- {escape(line)}\n" for line in verdicts(board.significance, ranked))
    return join("## Uncertainty of the ranks\n", table, said, drawn.get("scores"))


def _transfer(board: Board, ranked: pd.DataFrame, drawn: Mapping[str, str]) -> str:
    columns = _columns(board, "transfer")
    shown = [one for one in columns if not _repeats(ranked, one.name, "out_of_domain")]
    parts = ["## Transfer\n"]
    if ranked[[column.name for column in shown]].notna().to_numpy().any():
        parts.append(tabulate_leaders(ranked, shown))
    if not ranked["intra_full"].notna().any():
        parts.append(
            "No intra transfer yet: no ranked encoder's card declares pre-training on a domain of "
            "this board.\n"
        )
    return join(*parts, *_sources(board), drawn.get("domains"), _adapted(board, ranked))


def _repeats(ranked: pd.DataFrame, name: str, other: str) -> bool:
    """Tell whether two columns are equal for every encoder."""
    one, two = (ranked[column].to_numpy(float) for column in (name, other))
    return np.allclose(one, two, rtol=1e-12, atol=0, equal_nan=True)


def _adapted(board: Board, ranked: pd.DataFrame) -> str:
    """Further pre-training: scores in-domain, external and corrupted, by compute."""
    adapted = ranked[ranked["init"].notna()]
    if adapted.empty:
        return (
            "No further pre-training yet: no ranked encoder's card names its parent "
            "(`pretraining.init`).\n"
        )
    wanted = (IN_DOMAIN, "external", "corrupted", "pretraining_flops")
    shown = [column for column in board.columns if column.name in wanted]
    parents = ranked.loc[ranked.index.isin(adapted["init"])]
    rows = pd.concat([adapted, parents[~parents.index.isin(adapted.index)]])
    rows = rows.sort_values(["pretraining_flops", "rank"]).head(MOST)
    head = ["Encoder", "From", "Trained", *(column.title for column in shown)]
    lines = [
        [
            escape(name),
            *(escape(row[key]) if pd.notna(row[key]) else MISSING for key in ("init", "trained")),
            *(quantity(row[column.name], column.unit) for column in shown),
        ]
        for name, row in rows.iterrows()
    ]
    text = "Further pre-training by compute, with the ranked parents:\n\n"
    return text + pipe_table(head, lines, align="lll" + "r" * len(shown))


def _sources(board: Board) -> list[str]:
    """Source domains against target domains, and intra minus inter."""
    heat = board.source_domains
    if len(heat.scores) < 2:
        return []
    head = ["Pre-trained on", "Encoders", *map(str, heat.scores.columns)]
    rows = [
        [escape(source), str(heat.encoders[source]), *(quantity(float(v), "score") for v in row)]
        for source, row in zip(heat.scores.index, heat.scores.to_numpy(), strict=True)
    ]
    parts = ["Mean score of the encoders of a source domain on each target domain:\n"]
    parts.append(pipe_table(head, rows))
    if heat.pairs:
        tested = f", signed-rank test p = {heat.p:.2g}" if heat.p is not None else ""
        parts.append(
            "Intra minus inter (same target domain, encoders of other source domains): "
            f"{heat.difference:+.3f} over {heat.pairs} pair{'s' if heat.pairs > 1 else ''}{tested}"
            ".\n"
        )
    return parts


def _costs(board: Board, ranked: pd.DataFrame, drawn: Mapping[str, str]) -> str:
    columns = _columns(board, "cost")
    if not ranked["pretraining_flops"].gt(0).any():  # zeros, and the same total once more
        columns = [c for c in columns if c.name not in ("pretraining_flops", "total_flops")]
    parts = ["## Cost\n", tabulate_leaders(ranked, columns, titles=True)]
    fronts: dict[str, list[str]] = {}
    for name, price in PRICES.items():
        title = next((column.title for column in columns if column.name == price), None)
        front = ranked.index[ranked[name].fillna(False).astype(bool)]
        if title and len(front):
            fronts.setdefault(", ".join(map(escape, front)), []).append(title)
    parts += [
        f"Pareto front, score against {' and against '.join(titles)}: {front}.\n"
        for front, titles in fronts.items()
    ]
    best = best_under(ranked, "adaptation_flops")
    if len(best) > 1:
        lines = [
            f"{quantity(b, 'FLOP')} {escape(e)}"
            for b, e in zip(best["budget"], best["encoder"], strict=True)
        ]
        parts.append(f"Best within a limit of adaptation FLOPs: {', '.join(lines)}.\n")
    return join(*parts, drawn.get("cost"))


def tabulate_leaders(
    table: pd.DataFrame,
    columns: Iterable[Column],
    *,
    titles: bool = False,
    most: int = MOST,
) -> str:
    """One row an encoder; a column that is empty for all of them is left out.

    Where encoders have no rank, a last column says how many of their cells are there.
    """
    shown = [column for column in columns if table[column.name].notna().any()]
    rows = table.head(most)
    ranks = [MISSING if pd.isna(rank) else str(rank) for rank in rows["rank"]]
    cells = {"Rank": ranks, "Encoder": [*map(escape, rows.index)]}
    cells |= {column.title: _entries(rows, column) for column in shown}
    align = "rl" + "".join("l" if column.unit == "text" else "r" for column in shown)
    if titles:
        cells["Description"], align = [*map(escape, rows["title"])], align + "l"
    if MISSING in ranks:
        counts = zip(rows["have"], rows["expected"], strict=True)
        cells["Cells"], align = [f"{have} of {of}" for have, of in counts], align + "r"
    return pipe_table(list(cells), list(map(list, zip(*cells.values(), strict=True))), align=align)


def _trust(ranked: pd.DataFrame) -> dict[str, list[str]]:
    """Columns of uncertainty by title; empty ones are left out."""
    lines = {
        "In-domain, 95 %": spans(ranked, f"{IN_DOMAIN}_low", f"{IN_DOMAIN}_high", "score"),
        "Rank, 95 %": spans(ranked, "rank_low", "rank_high", "count"),
        "Tie": [quantity(value, "count") for value in ranked["tie"]],
        "Rank on other tasks": spans(ranked, "rank_low_tasks", "rank_high_tasks", "count"),
        "Mean rank": [f"{value:.1f}" for value in ranked["mean_rank"]],
        "Win rate": [quantity(value, "score") for value in ranked["win_rate"]],
    }
    if (ranked["contamination"] == "overlap").any():
        lines["Clean rank"] = [quantity(value, "count") for value in ranked["clean_rank"]]
    if ranked["pretraining_flops"].gt(0).any() or (ranked["contamination"] != "clean").any():
        lines["Contamination"] = [str(value) for value in ranked["contamination"]]
    lines["Status"] = [str(value) for value in ranked["status"]]
    return {name: values for name, values in lines.items() if set(values) != {MISSING}}


def _entries(rows: pd.DataFrame, column: Column) -> list[str]:
    values = rows[column.name]
    if column.unit == "text":
        return [escape(value) if pd.notna(value) else MISSING for value in values]
    texts = [quantity(value, column.unit) for value in values]
    if column.domain is None:
        return texts
    marks = {"intra": " (intra)", "unknown": " (unknown)"}
    relations = rows[f"relation_{column.domain}"].fillna("unknown")
    return [text + marks.get(relation, "") for text, relation in zip(texts, relations, strict=True)]


def _adaptations(board: Board) -> str:
    """The optional adaptations beside the ranked ones."""
    if board.adaptations.empty:
        return ""
    shown = board.adaptations["encoder"].isin(board.table.index[:MOST])
    head, rows = tabulate(board.adaptations[shown])
    escaped = [[escape(value) for value in row] for row in rows]
    table = pipe_table(head, escaped, align="llll" + "r" * (len(head) - 4))
    return "## Optional adaptations beside the ranked ones\n\n" + table


def _predictions(board: Board) -> str:
    """Validation of transferability scores on this board."""
    summary = board.validation.summary
    if summary.empty:
        return ""
    head, rows = tabulate_validation(summary)
    escaped = [[escape(value) for value in row] for row in rows]
    return (
        "## Predicting transfer without fine-tuning\n\n"
        + pipe_table(head, escaped, align="lll" + "r" * (len(head) - 3))
        + "\nTransferability scores (`bench score`) use training images alone; the outcome is the "
        "in-domain metric. Results per task are in `scores.csv`.\n"
    )


def _unranked(board: Board, unranked: pd.DataFrame) -> str:
    needed = ~board.results["adaptation"].isin(OPTIONAL)
    shown = unranked.head(MOST)
    inside = board.results[needed & (board.results["split"] == IN_DOMAIN)]
    inside = inside[inside["encoder"].isin(shown.index)]
    rows = []
    for encoder, row in shown.iterrows():
        cells = inside[inside["encoder"] == encoder]
        missing = (cells["draws"] - cells["have"]).groupby(cells["task"], sort=False).sum()
        text = ", ".join(f"{escape(task)} {count}" for task, count in missing.items() if count)
        error = escape(row["error"]) if pd.notna(row["error"]) else MISSING
        coverage = f"{row['have']} of {row['expected']} cells"
        rows.append([escape(encoder), coverage, text, error])
    head = ["Encoder", "Coverage", "Missing cells", "First failure"]
    table = "## Unranked\n\n" + pipe_table(head, rows, align="lrll")
    if any(column.name in KINDS for column in board.columns):
        table += (
            "\nAn encoder without feature maps has no segmentation cells; its rank is on the board "
            "of classification alone.\n"
        )
    return table
