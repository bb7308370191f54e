"""Boards: who is ranked where, under one protocol and on one suite of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medtransfer.ranking.adaptations import compare_adaptations
from medtransfer.ranking.columns import (
    COSTS,
    KIND_SCORES,
    SCORES,
    TRANSFER,
    Column,
    domain_columns,
)
from medtransfer.ranking.contamination import contamination, overlapping
from medtransfer.ranking.frame import IN_DOMAIN
from medtransfer.ranking.layout import OTHER_TASKS, Layout, lay_out
from medtransfer.ranking.pareto import mark_fronts
from medtransfer.ranking.resampling import Replicates
from medtransfer.ranking.sources import Sources, compare_sources
from medtransfer.ranking.standing import judge
from medtransfer.ranking.submissions import Submission
from medtransfer.ranking.table import average, cell_scores
from medtransfer.ranking.uncertainty import Significance
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite, split_family

__all__ = ["Board", "boards"]


@dataclass(frozen=True)
class Board:
    """All encoders on one suite of tasks under one protocol.

    Attributes:
        protocol: Name of the protocol.
        title: Title of the protocol; empty when no shipped one has that name.
        suite: Name of the suite.
        kind: ``classification`` or ``segmentation``, when the board has only these tasks of a suite
            with both; else empty.
        columns: The columns of scores, those of single domains last, then those of costs.
        table: Index encoder, in the order of the board: the ranked ones, then the others by
            coverage. Columns title, rank (null: unranked), have and expected (cells), coverage,
            error (of the first cell that failed), relation_<domain>, those of ``columns``, of
            `mark_fronts` and of :data:`STANDING`; init (the parent that pre-training began from);
            status; contamination; and clean_score and clean_rank, which leave out every task that
            a ranked encoder has seen in pre-training.
        results: One row per encoder, task, test split, adaptation and budget: domain, metric,
            its chance, mean and std of the primary metric over the draws (mean: null unless all are
            there), low and high (95 % interval of the mean, over items and draws), have, draws
            (expected) and diverged (how many). Optional adaptations are among them.
        adaptations: How adaptations compare, for encoders with an optional one; from
            `compare_adaptations`.
        significance: Tests of the ranked encoders over tasks.
        sources: Source domains against target domains, of the ranked encoders.
        notes: What was left out, and why.
    """

    protocol: str
    title: str
    suite: str
    kind: str
    columns: tuple[Column, ...]
    table: pd.DataFrame
    results: pd.DataFrame
    adaptations: pd.DataFrame
    significance: Significance
    sources: Sources
    notes: tuple[str, ...]


def boards(
    submissions: Sequence[Submission],
    suites: Mapping[str, Suite],
    protocols: Mapping[str, Protocol],
    *,
    kinds: Mapping[str, str] | None = None,
    lineages: Mapping[str, Sequence[str]] | None = None,
) -> list[Board]:
    """One board per protocol and suite, as `lay_out` has them.

    The boards of one kind of task are left out where nobody has a rank. Records made under another
    version of a shipped protocol, or under one that is not shipped, are counted in a note and not
    ranked.

    Args:
        submissions: The encoders.
        suites: By name.
        protocols: By name.
        kinds: Kind of each task by its card, for those that nobody ran.
        lineages: Source corpora of each task by its card.
    """
    found = [
        _board(layout, lineages or {})
        for layout in lay_out(submissions, suites, protocols, kinds=kinds)
    ]
    return [board for board in found if not board.kind or board.table["rank"].notna().any()]


def _board(layout: Layout, lineages: Mapping[str, Sequence[str]]) -> Board:
    own = {task: lineages.get(task, ()) for task in layout.rows["task"].unique()}
    mixed = KIND_SCORES if layout.ranked["kind"].nunique() > 1 else ()
    domains = domain_columns(layout.rows["domain"].unique())
    columns = (*SCORES, *mixed, *domains, *TRANSFER, *COSTS)
    table, seen = _table(layout, columns, own)
    ranked = list(table.index[table["rank"].notna()])
    standing = judge(
        cell_scores(layout.ranked), ranked, layout.replicates.select(layout.cells), own
    )
    return Board(
        protocol=layout.protocol,
        title=layout.title,
        suite=layout.suite,
        kind=layout.kind,
        columns=columns,
        table=table.join(standing.table),
        results=_results(layout.whole, layout.replicates),
        adaptations=compare_adaptations(cell_scores(layout.whole)),
        significance=standing.significance,
        sources=compare_sources(
            table.loc[ranked], {name: layout.submissions[name].card for name in ranked}
        ),
        notes=(
            *_stale(layout.stale),
            *_foreign(layout.foreign),
            *_inapplicable(layout.planned, layout.cells),
            *_seen(seen, layout.cells),
            *([_OTHER_TASKS_NOTE] if layout.suite == OTHER_TASKS else []),
        ),
    )


def _table(
    layout: Layout, columns: Sequence[Column], lineages: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Rank the encoders that have every expected cell; the others get no score at all.

    Returns:
        The table, and for each task that a ranked encoder has seen in pre-training who has.
    """
    cards = {name: submission.card for name, submission in layout.submissions.items()}
    cells = _describe(cell_scores(layout.ranked), cards)
    scores = cells[IN_DOMAIN].groupby(level="encoder")
    table = pd.DataFrame({"have": scores.count(), "expected": scores.size()})
    table["coverage"] = table["have"] / table["expected"]
    table["title"] = [cards[name].title for name in table.index]
    failed = layout.ranked[layout.ranked["status"] == "failed"]
    table["error"] = failed.groupby("encoder")["error"].first()
    for column in columns:
        table[column.name] = column.how(cells)
    incomplete = table["have"] < table["expected"]
    table.loc[incomplete, [column.name for column in columns if column.unit == "score"]] = None
    for domain in sorted(layout.ranked["domain"].unique()):
        table[f"relation_{domain}"] = [cards[name].relation(domain) for name in table.index]
    table = table.join(mark_fronts(table))
    table["rank"] = _rank(table[IN_DOMAIN])
    table["init"] = [cards[name].pretraining.init for name in table.index]
    table["status"] = [layout.submissions[name].status for name in table.index]
    table["contamination"] = [contamination(cards[name], lineages) for name in table.index]
    seen: dict[str, list[str]] = {}
    for name in table.index[table["rank"].notna()]:
        for task in overlapping(cards[name], lineages):
            seen.setdefault(task, []).append(name)
    unseen = average(cells[~cells.index.isin(list(seen), level="task")], IN_DOMAIN)
    table["clean_score"] = unseen.where(~incomplete)
    table["clean_rank"] = _rank(table["clean_score"])
    order = table.reset_index().sort_values(
        ["rank", "coverage", "encoder"], ascending=[True, False, True]
    )
    return order.set_index("encoder"), seen


def _rank(scores: pd.Series[float]) -> pd.Series[int]:
    return scores.rank(ascending=False, method="min").astype("Int64")


def _describe(cells: pd.DataFrame, cards: Mapping[str, EncoderCard]) -> pd.DataFrame:
    """Add to each cell what the encoder's card says: its relation to the task, and its price."""
    places = cells.index.to_frame()[["encoder", "domain"]]
    known = {
        (encoder, domain): cards[encoder].relation(domain)
        for encoder, domain in places.drop_duplicates().itertuples(index=False, name=None)
    }
    spent = {
        name: 0.0 if card.pretraining.objective == "none" else card.pretraining.cost.flops
        for name, card in cards.items()
    }
    relations: list[Any] = [known[key] for key in places.itertuples(index=False, name=None)]
    return cells.assign(
        relation=relations,
        pretraining_flops=places["encoder"].map(spent).astype(float),
    )


def _results(laid_out: pd.DataFrame, replicates: Replicates) -> pd.DataFrame:
    by = ["encoder", "domain", "task", "metric", "split", "adaptation", "budget"]
    rows = laid_out.assign(
        diverged=laid_out["status"] == "diverged",
        split=laid_out["split"].map(split_family),
        missing=laid_out["value"].isna(),
    )
    # Graded corruptions of a split are one: their mean, where all are there.
    kinds = rows.groupby([*by, "draw"], sort=False, dropna=False)
    draws = kinds.agg(
        value=("value", "mean"), diverged=("diverged", "any"), missing=("missing", "any")
    ).reset_index()
    draws["value"] = draws["value"].mask(draws.pop("missing"))
    groups = draws.groupby(by, sort=False, dropna=False, as_index=False)
    results = groups.agg(
        mean=("value", "mean"),
        std=("value", "std"),
        have=("value", "count"),
        draws=("value", "size"),
        diverged=("diverged", "sum"),
    )
    partial = results["have"] < results["draws"]
    results.loc[partial, ["mean", "std"]] = None
    chance = results["task"].map(laid_out.groupby("task")["chance"].max())
    results["chance"] = chance
    keys = ["encoder", "split", "task", "budget", "adaptation"]
    results = results.merge(replicates.bounds(), on=keys, how="left")
    for bound in ("low", "high"):  # from the scale of scores back to the metric's
        results[bound] = results[bound] * (1 - chance) + chance
    return results


_OTHER_TASKS_NOTE = (
    "The tasks here are in no suite, so they are whatever somebody ran: an encoder with one more "
    "task takes the rank from all that lack it."
)


def _count(rows: pd.DataFrame) -> str:
    records = int((rows["split"] == IN_DOMAIN).sum())
    encoders = ", ".join(sorted(rows["encoder"].unique()))
    return f"{records} record{'s' if records > 1 else ''} of {encoders}"


def _stale(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    return [f"Made under another version of the protocol, so not ranked: {_count(rows)}."]


def _foreign(rows: pd.DataFrame) -> list[str]:
    return [
        f"{task}: made with other data or another revision of the task than most, so counted as "
        f"missing: {_count(part)}."
        for task, part in rows.groupby("task")
    ]


def _seen(seen: Mapping[str, Sequence[str]], cells: Sequence[Cell]) -> list[str]:
    """What the second rank leaves out."""
    if not seen:
        return []
    tasks = {cell.task for cell in cells}
    rest = "" if tasks - set(seen) else ", which leaves none"
    listed = "; ".join(f"{task} ({', '.join(who)})" for task, who in sorted(seen.items()))
    return [
        "Seen in pre-training, as declared, and left out of the second rank for everybody"
        f"{rest}: {listed}."
    ]


def _inapplicable(planned: Iterable[Cell], cells: Iterable[Cell]) -> list[str]:
    kept = set(cells)
    dropped = dict.fromkeys(
        (cell.task, cell.budget, cell.adaptation) for cell in planned if cell not in kept
    )
    budgets: dict[tuple[str, str], list[str]] = {}
    for task, budget, adaptation in dropped:
        budgets.setdefault((task, budget), []).append(adaptation)
    return [
        f"{task}: {budget} does not apply, for any encoder ({', '.join(adaptations)})."
        for (task, budget), adaptations in budgets.items()
    ]
