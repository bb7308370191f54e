"""Boards: encoders ranked under one protocol on one suite of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.boards.adaptations import compare_adaptations
from medtransfer.ranking.boards.columns import (
    COSTS,
    KIND_SCORES,
    SCORES,
    TRANSFER,
    Column,
    domain_columns,
)
from medtransfer.ranking.boards.layout import OTHER_TASKS, Layout, lay_out
from medtransfer.ranking.boards.tables import (
    rank_scores,
    sort_by_rank,
    tabulate_results,
    tabulate_scores,
)
from medtransfer.ranking.predictions.predictions import validate_layout
from medtransfer.ranking.predictions.score_validation import ScoreValidation
from medtransfer.ranking.records.grid import GROUP, Grid, average
from medtransfer.ranking.records.submissions import Submission
from medtransfer.ranking.statistics.bootstrap import Replicates
from medtransfer.ranking.statistics.contamination import contamination, overlapping
from medtransfer.ranking.statistics.pareto import mark_fronts
from medtransfer.ranking.statistics.rank_statistics import compute_rank_statistics
from medtransfer.ranking.statistics.source_domains import SourceDomains, compare_source_domains
from medtransfer.ranking.statistics.uncertainty import Significance
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.split_name import IN_DOMAIN
from medtransfer.specs.task import Suite


@dataclass(frozen=True)
class Board:
    """Ranking of all encoders on one suite under one protocol.

    Attributes:
        protocol: Name of the protocol.
        title: Title of the protocol; empty when no shipped one has that name.
        about: Title of the suite; may be empty.
        tasks: Title of each of its tasks; empty where no card is known.
        suite: Name of the suite.
        kind: ``classification`` or ``segmentation``, when the board has only these tasks of a suite
            with both; else empty.
        columns: The columns of scores, those of single domains last, then those of costs.
        table: Index encoder, in the order of the board: the ranked ones, then the others by
            coverage. Columns title, rank (null: unranked), have and expected (cells), coverage,
            error (of the first cell that failed), relation_<domain>, those of ``columns``, of
            `mark_fronts` and of :data:`RANK_STATISTICS`; init (the parent of its pre-training)
            and trained (what of the network, at what cost); status; contamination; and clean_score
            and clean_rank, which leave out every task that a ranked encoder has seen in
            pre-training.
        results: One row per encoder, task, test split, adaptation and budget: domain, metric,
            its chance, mean and std of the primary metric over the draws (mean: null unless all are
            there), low and high (95 % interval of the mean, over items and draws; in-domain
            only), have, draws
            (expected) and diverged (how many). Optional adaptations are among them.
        adaptations: How adaptations compare, for encoders with an optional one; from
            `compare_adaptations`.
        significance: Tests of the ranked encoders over tasks.
        source_domains: Source domains against target domains, of the ranked encoders.
        validation: How well transferability scores predicted the ranked cells.
        notes: What was left out, and why.
    """

    protocol: str
    title: str
    about: str
    tasks: Mapping[str, str]
    suite: str
    kind: str
    columns: tuple[Column, ...]
    table: pd.DataFrame
    results: pd.DataFrame
    adaptations: pd.DataFrame
    significance: Significance
    source_domains: SourceDomains
    validation: ScoreValidation
    notes: tuple[str, ...]


def boards(
    submissions: Sequence[Submission],
    suites: Mapping[str, Suite],
    protocols: Mapping[str, Protocol],
    *,
    kinds: Mapping[str, str] | None = None,
    lineages: Mapping[str, Sequence[str]] | None = None,
    titles: Mapping[str, str] | None = None,
    processes: int = 1,
) -> list[Board]:
    """Make one board per protocol and suite, in the order of `lay_out`.

    The boards of one kind of task are left out where nobody has a rank. Records made under another
    version of a shipped protocol, or under one that is not shipped, are counted in a note and not
    ranked.

    Args:
        submissions: The encoders.
        suites: By name.
        protocols: By name.
        kinds: Kind of each task by its card, for those that nobody ran.
        lineages: Source corpora of each task by its card.
        titles: Of the tasks.
        processes: How many draw the bootstrap replicates.
    """
    ranked_boards = [
        _board(layout, lineages or {}, titles or {})
        for layout in lay_out(submissions, suites, protocols, kinds=kinds, processes=processes)
    ]
    return [board for board in ranked_boards if not board.kind or board.table["rank"].notna().any()]


def _board(
    layout: Layout, lineages: Mapping[str, Sequence[str]], titles: Mapping[str, str]
) -> Board:
    own_lineages = {task: lineages.get(task, ()) for task in layout.domains}
    mixed = KIND_SCORES if layout.ranked.groups["kind"].nunique() > 1 else ()
    domains = domain_columns(set(layout.domains.values()))
    columns = (*SCORES, *mixed, *domains, *TRANSFER, *COSTS)
    table, seen = _table(layout, columns, own_lineages)
    ranked = list(table.index[table["rank"].notna()])
    statistics = compute_rank_statistics(layout.ranked, ranked, layout.replicates, own_lineages)
    return Board(
        protocol=layout.protocol,
        title=layout.title,
        about=layout.about,
        tasks={task: titles.get(task, "") for task in layout.whole.groups["task"].unique()},
        suite=layout.suite,
        kind=layout.kind,
        columns=columns,
        table=table.join(statistics.table),
        results=tabulate_results(layout.whole, _bounds(layout.whole, layout.replicates)),
        adaptations=compare_adaptations(layout.whole),
        significance=statistics.significance,
        source_domains=compare_source_domains(
            table.loc[ranked], {name: layout.submissions[name].card for name in ranked}
        ),
        validation=validate_layout(layout),
        notes=_notes(layout, seen),
    )


def _table(
    layout: Layout, columns: Sequence[Column], lineages: Mapping[str, Sequence[str]]
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Rank the encoders that have every expected cell; the others get no score at all.

    Returns:
        The table, and for each task that a ranked encoder has seen in pre-training who has.
    """
    grid = layout.ranked
    cards = {name: layout.submissions[name].card for name in grid.encoders}
    table = tabulate_scores(grid, columns, {name: card.title for name, card in cards.items()})
    table["error"] = grid.failures.groupby("encoder", observed=True)["error"].first()
    incomplete = table["have"] < table["expected"]
    table.loc[incomplete, [column.name for column in columns if column.unit == "score"]] = None
    table = table.join(mark_fronts(table))
    table["rank"] = rank_scores(table[IN_DOMAIN])
    table["init"] = [card.pretraining.init for card in cards.values()]
    table["trained"] = [card.trained for card in cards.values()]
    table["status"] = [layout.submissions[name].status for name in table.index]
    table["contamination"] = [contamination(card, lineages) for card in cards.values()]
    seen: dict[str, list[str]] = {}
    for name in table.index[table["rank"].notna()]:
        for task in overlapping(cards[name], lineages):
            seen.setdefault(task, []).append(name)
    unseen = average(grid, IN_DOMAIN, where=lambda groups: ~groups["task"].isin(list(seen)))
    table["clean_score"] = unseen.where(~incomplete)
    table["clean_rank"] = rank_scores(table["clean_score"])
    return sort_by_rank(table), seen


def _bounds(grid: Grid, replicates: Replicates) -> NDArray[np.float64]:
    """Intervals of the in-domain scores, (2, G, E)."""
    rows = replicates.find(grid.groups)
    parts = [replicates.bounds[name][:, rows] for name in grid.encoders]
    return np.stack(parts, axis=-1) if parts else np.empty((2, len(rows), 0))


def _notes(layout: Layout, seen: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Notes on what was left out, and why."""
    return (
        *_stale(layout.stale),
        *_foreign(layout.foreign),
        *_inapplicable(layout.planned, layout.cells),
        *_seen(seen, layout.cells),
        *_doubtful(layout.whole, layout.replicates),
        *([_OTHER_TASKS_NOTE] if layout.suite == OTHER_TASKS else []),
    )


_OTHER_TASKS_NOTE = (
    "These tasks are in no suite: as soon as one encoder has a further task, encoders without it "
    "lose their rank."
)


def _count(rows: pd.DataFrame) -> str:
    records = len(rows)
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
        for task, part in rows.groupby("task", observed=True)
    ]


def _seen(seen: Mapping[str, Sequence[str]], cells: Sequence[Cell]) -> list[str]:
    """Tasks that the clean rank leaves out."""
    if not seen:
        return []
    tasks = {cell.task for cell in cells}
    rest = "" if tasks - set(seen) else ", which leaves none"
    listed = "; ".join(f"{task} ({', '.join(who)})" for task, who in sorted(seen.items()))
    return [
        "Seen in pre-training (as declared), so left out of the clean rank of all encoders"
        f"{rest}: {listed}."
    ]


def _doubtful(grid: Grid, replicates: Replicates) -> list[str]:
    """Results that cannot be what their replicates were drawn from; see `bench verify`."""
    inside, rows = grid.splits[IN_DOMAIN].mean, replicates.find(grid.groups)
    chance = grid.groups["chance"].to_numpy(float)
    notes = []
    for column, encoder in enumerate(grid.encoders):
        low, high = replicates.bounds[encoder][:, rows] * (1 - chance) + chance
        beyond = high - low + 1e-3  # as far again as the interval is wide
        far = (inside[:, column] < low - beyond) | (inside[:, column] > high + beyond)
        if far.any():
            first = " ".join(grid.groups.loc[np.flatnonzero(far)[0], GROUP])
            notes.append(
                f"{encoder}: {far.sum()} result{'s' if far.sum() > 1 else ''} far outside the "
                f"submitted bootstrap replicates, the first {first}; see `bench verify`."
            )
    return notes


def _inapplicable(planned: Iterable[Cell], cells: Iterable[Cell]) -> list[str]:
    kept = set(cells)
    dropped = dict.fromkeys(
        (cell.task, cell.budget, cell.adaptation) for cell in planned if cell not in kept
    )
    budgets: dict[tuple[str, str], list[str]] = {}
    for task, budget, adaptation in dropped:
        budgets.setdefault((task, budget), []).append(adaptation)
    return [
        f"{task}: {budget} is not applicable, for any encoder ({', '.join(adaptations)})."
        for (task, budget), adaptations in budgets.items()
    ]
