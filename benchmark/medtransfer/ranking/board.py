"""Boards: who is ranked where, under one protocol and on one suite of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from medtransfer.ranking.adaptations import compare_adaptations
from medtransfer.ranking.columns import COSTS, KIND_SCORES, SCORES, Column, domain_columns
from medtransfer.ranking.frame import IN_DOMAIN, KINDS, frame, most_common
from medtransfer.ranking.submissions import Submission
from medtransfer.ranking.table import (
    applicable,
    broad_kind,
    cell_scores,
    expected_cells,
    expected_fingerprints,
    grid,
)
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite, split_family

__all__ = ["OTHER_TASKS", "Board", "boards"]

OTHER_TASKS = "other tasks"


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
            error (of the first cell that failed), relation_<domain>, and those of ``columns``.
        results: One row per encoder, task, test split, adaptation and budget: domain, metric,
            mean and std of the primary metric over the draws (mean: null unless all are there),
            have, draws (expected) and diverged (how many). Optional adaptations are among them.
        adaptations: How adaptations compare, for encoders with an optional one; from
            `compare_adaptations`.
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
    notes: tuple[str, ...]


def boards(
    submissions: Sequence[Submission],
    suites: Mapping[str, Suite],
    protocols: Mapping[str, Protocol],
    *,
    kinds: Mapping[str, str] | None = None,
) -> list[Board]:
    """One board per protocol and suite, in the order of the two mappings.

    A suite that has classification and segmentation tasks gets a board for each, too, where anybody
    has a rank: an encoder that gives no feature maps has its own on the one of classification.

    A suite has a board when each of its tasks has records; one with fewer, only when these would
    be on no board otherwise. Tasks in no suite share a last board of each protocol. Records made
    under another version of a shipped protocol, or under one that is not shipped, are counted in
    a note and not ranked.

    Args:
        submissions: The encoders.
        suites: By name.
        protocols: By name.
        kinds: Kind of each task by its card, for those that nobody ran.
    """
    rows = frame(submissions)
    cards = {submission.card.name: submission.card for submission in submissions}
    unknown = sorted(set(rows["protocol"]) - set(protocols))
    found = []
    for name in [*protocols, *unknown]:
        own = rows[rows["protocol"] == name]
        known = {**(kinds or {}), **most_common(own, "kind")}
        for key, suite in _shown(suites, set(own["task"])).items():
            for kind, chosen in _by_kind(suite, known).items():
                part = own[own["task"].isin(chosen.tasks)]
                named = (name, protocols.get(name)), (key, kind, chosen)
                board = _board(*named, part, cards, known)
                if not kind or board.table["rank"].notna().any():
                    found.append(board)
    return found


def _by_kind(suite: Suite, kinds: Mapping[str, str]) -> dict[str, Suite]:
    """The suite itself, and its tasks of each kind where there are several.

    A task of unknown kind is in each of them, where nobody is complete without it.
    """
    found = {task: broad_kind(kinds[task]) for task in suite.tasks if task in kinds}
    if len(set(found.values())) < 2:
        return {"": suite}
    parts = {kind: [t for t in suite.tasks if found.get(t, kind) == kind] for kind in KINDS}
    return {"": suite} | {
        kind: suite.model_copy(update={"tasks": tasks}) for kind, tasks in parts.items()
    }


def _shown(suites: Mapping[str, Suite], tasks: set[str]) -> dict[str, Suite]:
    """The suites that get a board when there are records of ``tasks``."""
    chosen = {name for name, suite in suites.items() if tasks.issuperset(suite.tasks)}
    left = tasks.difference(*(suites[name].tasks for name in chosen))
    for name, suite in suites.items():
        if left.intersection(suite.tasks):
            chosen.add(name)
            left = left.difference(suite.tasks)
    shown = {name: suite for name, suite in suites.items() if name in chosen}
    return shown | ({OTHER_TASKS: Suite(tasks=sorted(left))} if left else {})


def _board(
    protocol: tuple[str, Protocol | None],
    suite: tuple[str, str, Suite],
    rows: pd.DataFrame,
    cards: Mapping[str, EncoderCard],
    kinds: Mapping[str, str],
) -> Board:
    name, values = protocol
    stale = rows["protocol_fingerprint"] != expected_fingerprints(rows, values)
    current = rows[~stale]
    foreign = current["fingerprint"] != current["task"].map(most_common(current, "fingerprint"))
    valid = current[~foreign]
    key, kind, chosen = suite
    planned = expected_cells(chosen, kinds, values) if values else []
    cells = applicable(planned, valid)
    encoders = sorted(current["encoder"].unique())
    laid_out = grid(valid, cells, encoders)
    optional = expected_cells(chosen, kinds, values, optional=True) if values else []
    both = grid(valid, [*cells, *applicable(optional, valid)], encoders)
    mixed = KIND_SCORES if laid_out["kind"].nunique() > 1 else ()
    columns = (*SCORES, *mixed, *domain_columns(valid["domain"].unique()), *COSTS)
    notes = [
        *_stale(rows[stale]),
        *_foreign(current[foreign]),
        *_inapplicable(planned, cells),
        *([_OTHER_TASKS_NOTE] if key == OTHER_TASKS else []),
    ]
    return Board(
        protocol=name,
        title=values.title if values else "",
        suite=key,
        kind=kind,
        columns=columns,
        table=_table(laid_out, columns, cards),
        results=_results(both),
        adaptations=compare_adaptations(cell_scores(both)),
        notes=tuple(notes),
    )


def _table(
    laid_out: pd.DataFrame, columns: Sequence[Column], cards: Mapping[str, EncoderCard]
) -> pd.DataFrame:
    """Rank the encoders that have every expected cell; the others get no score at all."""
    cells = cell_scores(laid_out)
    scores = cells[IN_DOMAIN].groupby(level="encoder")
    table = pd.DataFrame({"have": scores.count(), "expected": scores.size()})
    table["coverage"] = table["have"] / table["expected"]
    table["title"] = [cards[name].title for name in table.index]
    failed = laid_out[laid_out["status"] == "failed"]
    table["error"] = failed.groupby("encoder")["error"].first()
    for column in columns:
        table[column.name] = column.how(cells)
    incomplete = table["have"] < table["expected"]
    table.loc[incomplete, [column.name for column in columns if column.unit == "score"]] = None
    for domain in sorted(laid_out["domain"].unique()):
        table[f"relation_{domain}"] = [cards[name].relation(domain) for name in table.index]
    table["rank"] = table[IN_DOMAIN].rank(ascending=False, method="min").astype("Int64")
    order = table.reset_index().sort_values(
        ["rank", "coverage", "encoder"], ascending=[True, False, True]
    )
    return order.set_index("encoder")


def _results(laid_out: pd.DataFrame) -> pd.DataFrame:
    by = ["encoder", "domain", "task", "metric", "split", "adaptation", "budget"]
    rows = laid_out.assign(
        diverged=laid_out["status"] == "diverged", split=laid_out["split"].map(split_family)
    )
    # Graded corruptions of a split are one: their mean, where all are there.
    kinds = rows.groupby([*by, "draw"], sort=False, dropna=False)
    draws = kinds.agg(
        value=("value", lambda values: values.mean(skipna=False)), diverged=("diverged", "any")
    )
    groups = draws.reset_index().groupby(by, sort=False, dropna=False)
    results = groups.agg(
        mean=("value", "mean"),
        std=("value", "std"),
        have=("value", "count"),
        draws=("value", "size"),
        diverged=("diverged", "sum"),
    )
    partial = results["have"] < results["draws"]
    results.loc[partial, ["mean", "std"]] = None
    return results.reset_index()


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
