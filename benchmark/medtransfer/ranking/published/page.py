"""Published boards as the page's JSON: a board like the others, and what the study claims."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medtransfer.ranking.published.board import VIEWS, PublishedBoard
from medtransfer.ranking.published.text import (
    HOW_FINDINGS_ARE_READ,
    claims,
    holds,
    summarise,
    tabulate_comparisons,
    tabulate_target,
)
from medtransfer.ranking.report.site.cards import describe_published
from medtransfer.ranking.report.site.columns import study_columns

__all__ = ["describe_study"]

Json = dict[str, Any]


def describe_study(board: PublishedBoard) -> Json:
    """What the page shows of a study.

    Returns:
        As of a measured board, but with the cards of its own encoders, and its own series: its
        numbers stand nowhere else. ``published`` holds where they come from, the findings, and
        each target by every metric.
    """
    study = board.study
    table = _table(board)
    columns = study_columns(board)
    values = {str(name): _values(table[name]) for name in table.columns}
    results, series = _results(board, list(table.index))
    return {
        "id": f"published:{study.name}",
        "protocol": "",
        "title": study.title,
        "suite": study.name,
        "kind": "",
        "cards": [describe_published(study.encoder_cards[name]) for name in table.index],
        "order": list(range(len(table))),
        "columns": columns,
        "values": values,
        "results": results,
        "series": series,
        "notes": study.remarks,
        "published": {
            "citation": study.citation,
            "licence": study.licence,
            "url": study.url,
            "findings": _findings(board),
            "reading": HOW_FINDINGS_ARE_READ,
            "targets": _targets(board),
        },
    }


def _table(board: PublishedBoard) -> pd.DataFrame:
    """The board's table under the page's names of columns, scores and relations by domain too."""
    kept = ["rank", "have", "expected", "parameters", *VIEWS]
    table = board.table[kept].rename(columns={"overall": "in_domain"})
    for (domain, regime), part in board.domains.groupby(["domain", "regime"], sort=False):
        own = part.set_index("encoder")
        table[f"{str(regime).replace('-', '_')}_{domain}"] = own["score"]
    cards = board.study.encoder_cards
    for domain in dict.fromkeys(target.domain for target in board.study.targets.values()):
        relations = [cards[name].relation(domain) for name in table.index]
        table[f"relation_{domain}"] = pd.Series(relations, index=table.index, dtype=object)
    return table


def _values(values: pd.Series[Any]) -> list[Any]:
    """Six decimals, as the page computes with the results; whole numbers without a point."""
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    if isinstance(value, str):
        return value
    rounded = round(float(value), 6)
    return int(rounded) if rounded.is_integer() else rounded


def _results(board: PublishedBoard, names: list[str]) -> tuple[list[list[Any]], list[Json]]:
    """The primary metric of every target and budget, in the shape of the measured results."""
    found: list[list[Any]] = []
    series: list[Json] = []
    for name, target in board.study.target_cards.items():
        own = board.results.query("task == @name and metric == @target.metric")
        for budget in (b for b in board.study.ordered_budgets if b in target.budgets):
            part = own[own["budget"] == budget].set_index("encoder").reindex(names)
            draws = len(board.study.draws)
            have = part["have"].fillna(0).astype(int)
            key = [name, target.domain, target.metric, "in_domain", board.study.adaptation, budget]
            found.append([*key, target.chance, len(series)])
            series.append(
                {
                    "mean": _values(part["mean"]),
                    "draws": draws,
                    "have": {at: n for at, n in enumerate(have) if n < draws},
                    "diverged": {},
                }
            )
    return found, series


def _findings(board: PublishedBoard) -> list[Json]:
    found = []
    for finding, comparisons in claims(board):
        head, rows = tabulate_comparisons(comparisons)
        found.append(
            {
                "title": finding.title,
                "text": finding.text,
                "shown": holds(comparisons),
                "lines": summarise(comparisons),
                "head": head,
                "rows": rows,
            }
        )
    return found


def _targets(board: PublishedBoard) -> list[Json]:
    return [
        {
            "name": name,
            "title": target.title,
            "tables": [
                {"metric": metric, "head": head, "rows": rows}
                for metric, head, rows in tabulate_target(board, name)
            ],
        }
        for name, target in board.study.target_cards.items()
    ]
