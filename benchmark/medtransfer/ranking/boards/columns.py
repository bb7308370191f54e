"""The columns of a board. A column is one entry of an ordered registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import pandas as pd

from medtransfer.core.text import MISSING, Unit, quantity
from medtransfer.ranking.records.frame import KINDS
from medtransfer.ranking.records.grid import Grid, average, largest, peak, total
from medtransfer.specs.split_name import IN_DOMAIN

Section = Literal["overall", "domains", "transfer", "cost"]


@dataclass(frozen=True)
class Column:
    """One column of a board.

    Attributes:
        name: In the CSV.
        title: For people.
        how: From the grid to one value per encoder.
        unit: Of the values.
        section: Of the board.
        domain: The one domain that is scored; null for all other columns.
    """

    name: str
    title: str
    how: Callable[[Grid], pd.Series[Any]]
    unit: Unit = "score"
    section: Section = "overall"
    domain: str | None = None


def few_shot(groups: pd.DataFrame) -> pd.Series[bool]:
    """Groups of every budget but full."""
    return groups["budget"] != "full"


def full(groups: pd.DataFrame) -> pd.Series[bool]:
    """Groups of the full budget."""
    return groups["budget"] == "full"


def _has(groups: pd.DataFrame, name: str, value: str) -> pd.Series[bool]:
    return groups[name] == value


def frozen(groups: pd.DataFrame) -> pd.Series[bool]:
    """Groups whose encoder stays frozen."""
    return groups["adaptation"].isin(["knn", "linear", "decoder"])


def finetuned(groups: pd.DataFrame) -> pd.Series[bool]:
    """Groups whose encoder is trained as a whole."""
    return groups["adaptation"] == "finetune"


_view = partial(average, column=IN_DOMAIN)


def _out_of_domain(grid: Grid, column: str) -> pd.Series[float]:
    """Over the tasks that have such test splits."""
    scores: pd.Series[float] = average(grid, column, where=itemgetter(column))
    return scores


def _gap(grid: Grid) -> pd.Series[float]:
    inside: pd.Series[float] = _view(grid, where=itemgetter("out_of_domain"))
    return inside - _out_of_domain(grid, "out_of_domain")


def _total_flops(grid: Grid) -> pd.Series[float]:
    """Pre-training, as declared, and adaptation."""
    return total(grid, "adaptation_flops") + largest(grid, "pretraining_flops")


def _devices(grid: Grid) -> pd.Series[str]:
    names = grid.devices[["encoder", "device"]].drop_duplicates().sort_values("device")
    return names.groupby("encoder", observed=True)["device"].agg("; ".join)


def _cost(name: str, title: str, how: Callable[..., pd.Series[Any]], unit: Unit) -> Column:
    return Column(name, title, partial(how, column=name), unit, "cost")


SCORES = (
    Column(IN_DOMAIN, "In-domain", _view),
    Column("out_of_domain", "Out-of-domain", partial(_out_of_domain, column="out_of_domain")),
    Column("gap", "Gap", _gap),
    Column("few_shot", "Few-shot", partial(_view, where=few_shot)),
    Column("full", "Full", partial(_view, where=full)),
    Column("frozen", "Frozen", partial(_view, where=frozen)),
    Column("finetuned", "Fine-tuned", partial(_view, where=finetuned)),
)

KIND_SCORES = tuple(
    Column(kind, kind.capitalize(), partial(_view, where=partial(_has, name="kind", value=kind)))
    for kind in KINDS
)

TRANSFER = tuple(
    Column(
        f"{relation}_{name}",
        f"{relation.capitalize()}, {name.replace('_', '-')}",
        partial(_view, where=where, relation=relation),
        section="transfer",
    )
    for relation in ("intra", "inter")
    for name, where in (("few_shot", few_shot), ("full", full))
) + tuple(
    Column(name, title, partial(_out_of_domain, column=name), section="transfer")
    for name, title in (("external", "External"), ("corrupted", "Corrupted"))
)

COSTS = (
    _cost("adaptation_flops", "Adaptation FLOPs", total, "FLOP"),
    _cost("inference_flops_per_image", "FLOPs per image", largest, "FLOP"),
    _cost("pretraining_flops", "Pre-training FLOPs", largest, "FLOP"),
    Column("total_flops", "Total FLOPs", _total_flops, "FLOP", "cost"),
    _cost("parameters", "Parameters", largest, "count"),
    _cost("seconds", "Time", total, "seconds"),
    _cost("peak_memory_bytes", "Peak memory", peak, "bytes"),
    _cost("energy_joules", "Energy", total, "joules"),
    Column("device", "Device", _devices, "text", "cost"),
)


def domain_columns(domains: Iterable[str]) -> tuple[Column, ...]:
    """One in-domain score column per domain."""
    return tuple(
        Column(
            f"domain_{domain}",
            domain,
            partial(_view, where=partial(_has, name="domain", value=domain)),
            section="domains",
            domain=domain,
        )
        for domain in sorted(domains)
    )


def spans(table: pd.DataFrame, low: str, high: str, unit: Unit) -> list[str]:
    """Intervals, ``1 to 3``, or one number where they have no width."""
    rows = []
    for bounds in table[[low, high]].itertuples(index=False, name=None):
        if pd.isna(bounds[0]):
            rows.append(MISSING)
        else:
            ends = dict.fromkeys(quantity(float(bound), unit) for bound in bounds)
            rows.append(" to ".join(ends))
    return rows
