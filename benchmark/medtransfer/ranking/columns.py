"""The columns of a board. A column is one entry of an ordered registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pandas as pd

from medtransfer.ranking.frame import IN_DOMAIN, KINDS
from medtransfer.ranking.table import average, totals

__all__ = [
    "COSTS",
    "KIND_SCORES",
    "SCORES",
    "TRANSFER",
    "Column",
    "Section",
    "Unit",
    "domain_columns",
]

Section = Literal["overall", "domains", "transfer", "cost"]
Unit = Literal["score", "FLOP", "count", "seconds", "bytes", "joules", "text"]


@dataclass(frozen=True)
class Column:
    """One column of a board.

    Attributes:
        name: In the CSV.
        title: For people.
        how: From the table of :func:`cell_scores` to one value per encoder.
        unit: Of the values.
        section: Of the board.
        domain: The one domain that is scored; null for all other columns.
    """

    name: str
    title: str
    how: Callable[[pd.DataFrame], pd.Series[Any]]
    unit: Unit = "score"
    section: Section = "overall"
    domain: str | None = None


def _view(cells: pd.DataFrame, query: str, column: str = IN_DOMAIN) -> pd.Series[float]:
    return average(cells.query(query), column)


def _domain(cells: pd.DataFrame, domain: str) -> pd.Series[float]:
    return average(cells[cells.index.isin([domain], level="domain")], IN_DOMAIN)


def _gap(cells: pd.DataFrame) -> pd.Series[float]:
    external = cells.query("elsewhere")
    return average(external, IN_DOMAIN) - average(external, "out_of_domain")


def _largest(cells: pd.DataFrame, name: str) -> pd.Series[float]:
    return cells[name].groupby(level="encoder").max()


def _peak(cells: pd.DataFrame, name: str) -> pd.Series[float]:
    """The largest value; null when any cell's is unknown, which might be the largest."""
    return _largest(cells, name).where(totals(cells, name).notna())


def _total(cells: pd.DataFrame) -> pd.Series[float]:
    """Pre-training, as declared, and adaptation."""
    return totals(cells, "adaptation_flops") + _largest(cells, "pretraining_flops")


def _devices(cells: pd.DataFrame) -> pd.Series[str]:
    names = cells["device"].dropna().reset_index()[["encoder", "device"]].drop_duplicates()
    return names.sort_values("device").groupby("encoder")["device"].agg(", ".join)


SCORES = (
    Column(IN_DOMAIN, "In-domain", lambda cells: average(cells, IN_DOMAIN)),
    Column(
        "out_of_domain", "Out-of-domain", partial(_view, query="elsewhere", column="out_of_domain")
    ),
    Column("gap", "Gap", _gap),
    Column("few_shot", "Few-shot", partial(_view, query="budget != 'full'")),
    Column("full", "Full", partial(_view, query="budget == 'full'")),
    Column("frozen", "Frozen", partial(_view, query="adaptation in ['knn', 'linear', 'decoder']")),
    Column("finetuned", "Fine-tuned", partial(_view, query="adaptation == 'finetune'")),
)

KIND_SCORES = tuple(
    Column(kind, kind.capitalize(), partial(_view, query=f"kind == '{kind}'")) for kind in KINDS
)

TRANSFER = tuple(
    Column(
        f"{relation}_{name}",
        f"{relation.capitalize()}, {name.replace('_', '-')}",
        partial(_view, query=f"relation == '{relation}' and {query}"),
        section="transfer",
    )
    for relation in ("intra", "inter")
    for name, query in (("few_shot", "budget != 'full'"), ("full", "budget == 'full'"))
) + tuple(
    Column(
        name,
        title,
        partial(_view, query=f"{name}.notna()", column=name),
        section="transfer",
    )
    for name, title in (("external", "External"), ("corrupted", "Corrupted"))
)

_cost = partial(Column, section="cost")

COSTS = (
    _cost(
        "adaptation_flops",
        "Adaptation FLOPs",
        partial(totals, column="adaptation_flops"),
        unit="FLOP",
    ),
    _cost(
        "inference_flops_per_image",
        "FLOPs per image",
        partial(_largest, name="inference_flops_per_image"),
        unit="FLOP",
    ),
    _cost(
        "pretraining_flops",
        "Pre-training FLOPs",
        partial(_largest, name="pretraining_flops"),
        unit="FLOP",
    ),
    _cost("total_flops", "Total FLOPs", _total, unit="FLOP"),
    _cost("parameters", "Parameters", partial(_largest, name="parameters"), unit="count"),
    _cost("seconds", "Time", partial(totals, column="seconds"), unit="seconds"),
    _cost(
        "peak_memory_bytes", "Peak memory", partial(_peak, name="peak_memory_bytes"), unit="bytes"
    ),
    _cost("energy_joules", "Energy", partial(totals, column="energy_joules"), unit="joules"),
    _cost("device", "Device", _devices, unit="text"),
)


def domain_columns(domains: Iterable[str]) -> tuple[Column, ...]:
    """One in-domain score column per domain."""
    return tuple(
        Column(
            f"domain_{domain}",
            domain,
            partial(_domain, domain=domain),
            section="domains",
            domain=domain,
        )
        for domain in sorted(domains)
    )
