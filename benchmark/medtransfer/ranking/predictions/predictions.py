"""Transferability scores and outcomes of submissions, and their validation."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.core.text import MISSING, quantity
from medtransfer.ranking.boards.layout import Layout
from medtransfer.ranking.predictions.score_validation import (
    LEAST,
    ScoreValidation,
    validate_scores,
    verdict,
)
from medtransfer.ranking.records.eligibility import is_current
from medtransfer.ranking.records.frame import join, most_common
from medtransfer.ranking.records.grid import Grid
from medtransfer.ranking.records.submissions import Submission
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.split_name import IN_DOMAIN

SOURCE_ACCURACY = "source_accuracy"
"""Score of a checkpoint on its source domain, which is no score of a target."""


def validate_layout(layout: Layout) -> ScoreValidation:
    """Validate the scores of a board's encoders against the outcomes of its ranked cells."""
    chosen = leave_out_checkpoints(layout.submissions)
    scores = scores_of(chosen, protocol=layout.protocol, tasks=layout.domains)
    return validate_scores(scores, outcomes_of(layout.ranked))


def validate_submissions(
    submissions: Mapping[str, Submission], protocol: Protocol, *, tasks: Collection[str]
) -> ScoreValidation:
    """Validate scores without a board, over the encoders that have both on a task."""
    chosen = leave_out_checkpoints(submissions)
    scores = scores_of(chosen, protocol=protocol.name, tasks=tasks)
    return validate_scores(scores, outcomes_of_records(chosen, protocol, tasks=tasks))


def leave_out_checkpoints(submissions: Mapping[str, Submission]) -> dict[str, Submission]:
    """Keep the last checkpoint of each pre-training run: checkpoints resemble each other."""
    last: dict[str, int] = {}
    runs = {name: submission.card.pretraining.run for name, submission in submissions.items()}
    for run in runs.values():
        if run is not None:
            last[run.fingerprint] = max(run.steps, last.get(run.fingerprint, 0))
    return {
        name: submission
        for name, submission in submissions.items()
        if (run := runs[name]) is None or run.steps == last[run.fingerprint]
    }


def outcomes_of(grid: Grid) -> pd.DataFrame:
    """Average the in-domain primary metric of each encoder, task and adaptation over budgets.

    Returns:
        Columns encoder, task, outcome (the adaptation), value (null unless every budget and draw
        is there) and flops (of all the cells).
    """
    parts = [
        pd.DataFrame(
            {
                "encoder": grid.encoders,
                "task": task,
                "outcome": adaptation,
                "value": grid.columns["value"][rows.index].mean(axis=0),
                "flops": grid.columns["adaptation_flops"][rows.index].sum(axis=0),
            }
        )
        for (task, adaptation), rows in grid.groups.groupby(["task", "adaptation"], sort=False)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_OUTCOMES)


_OUTCOMES = ["encoder", "task", "outcome", "value", "flops"]
_SCORES = ["encoder", "task", "score", "value", "flops"]


def outcomes_of_records(
    submissions: Mapping[str, Submission], protocol: Protocol, *, tasks: Iterable[str]
) -> pd.DataFrame:
    """Outcomes without a board: over the cells that more than half of the encoders have.

    Records of another version of the protocol, or of other data than most, are left out.
    """
    if not submissions:
        return pd.DataFrame(columns=_OUTCOMES)
    frame = join(list(submissions.values()))
    inside = frame.values[frame.values["split"] == IN_DOMAIN].set_index("cell")["value"]
    cells = frame.cells.assign(value=inside.reindex(frame.cells.index))
    cells = cells[(cells["protocol"] == protocol.name) & cells["task"].isin(set(tasks))]
    cells = cells[is_current(cells, protocol) & cells["status"].isin(["ok", "diverged"])]
    usual = usual_data(submissions, protocol.name)
    cells = cells[cells["task"].astype(object).map(usual) == cells["fingerprint"].astype(object)]
    cells["value"] = cells["value"].where(cells["status"] != "diverged", cells["chance"])
    names = ["encoder", "task", "adaptation", "budget"]
    cells = cells.astype(dict.fromkeys(names, object))
    parts = []
    for key, part in cells.groupby(["task", "adaptation"], sort=False):
        task, adaptation = map(str, key)
        by_cell = part.groupby(["budget", "draw"])["encoder"].transform("nunique")
        part = part[by_cell > part["encoder"].nunique() / 2]
        grid = part.pivot(
            index=["budget", "draw"], columns="encoder", values=["value", "adaptation_flops"]
        )
        outcomes = pd.DataFrame(
            {
                "value": grid["value"].astype(float).mean(axis=0, skipna=False),
                "flops": grid["adaptation_flops"].astype(float).sum(axis=0, skipna=False),
            }
        )
        outcomes = outcomes.rename_axis("encoder").reset_index()
        parts.append(outcomes.assign(task=task, outcome=adaptation)[_OUTCOMES])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_OUTCOMES)


def usual_data(submissions: Mapping[str, Submission], protocol: str) -> dict[str, str]:
    """Choose the most common data fingerprint of each task, in records, else in scores."""
    names = ["task", "fingerprint"]
    fingerprints: dict[str, str] = {}
    for tables in (
        [submission.scores for submission in submissions.values()],
        [submission.cells for submission in submissions.values()],
    ):
        parts = [table.loc[table["protocol"] == protocol, names].astype(object) for table in tables]
        rows = [table.drop_duplicates() for table in parts if len(table)]
        if rows:
            fingerprints |= most_common(pd.concat(rows, ignore_index=True), "fingerprint")
    return fingerprints


def scores_of(
    submissions: Mapping[str, Submission], *, protocol: str, tasks: Iterable[str]
) -> pd.DataFrame:
    """The scores of encoders under a protocol, on the data that their records are of, too.

    Those of other weights than an encoder's records, the parts of a sweep, and what is said of an
    encoder's own source are left out; of a score whose fixed values were changed those count that
    most encoders have.

    Returns:
        Columns encoder, task, score, value and flops; at most one row of each.
    """
    wanted, usual = set(tasks), usual_data(submissions, protocol)
    parts = []
    for name, submission in submissions.items():
        scores = submission.scores
        scores = scores[(scores["protocol"] == protocol) & scores["task"].isin(wanted)]
        scores = scores[scores["fingerprint"] == scores["task"].map(usual)]
        scores = scores[
            ~scores["score"].str.contains("[", regex=False) & (scores["score"] != SOURCE_ACCURACY)
        ]
        weights = set(submission.cells["sha256"].dropna())
        parts.append(
            scores[scores["sha256"].isin(weights or set(scores["sha256"]))].assign(encoder=name)
        )
    if not any(len(part) for part in parts):
        return pd.DataFrame(columns=_SCORES)
    every = pd.concat([part for part in parts if len(part)], ignore_index=True)
    counts = every.groupby(["score", "made"])["encoder"].nunique().reset_index()
    made = counts.sort_values(["encoder", "made"]).drop_duplicates("score", keep="last")
    every = every.merge(made[["score", "made"]], on=["score", "made"])
    return every.drop_duplicates(["encoder", "task", "score"], keep="last")[_SCORES]


def tabulate_validation(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Validation as a table, outcome by outcome, the best scores first.

    Returns:
        The head and the rows of a table; the first three columns are text.
    """
    shown = summary.assign(place=summary["weighted_tau"].fillna(-np.inf))
    order = {outcome: number for number, outcome in enumerate(summary["outcome"].unique())}
    shown = shown.assign(turn=shown["outcome"].map(order))
    shown = shown.sort_values(["turn", "place"], ascending=[True, False], kind="stable")
    costs = shown["relative_cost"].notna().any()
    head = ["Outcome", "Score", "Rank correlation", "Weighted tau", "Spearman", "Pearson"]
    head += ["Regret", "Best in top 3", "Tasks", "Encoders"]
    head += ["Cost / adaptation"] if costs else []
    rows = []
    for row in shown.to_dict("records"):
        blind = np.isnan(row["weighted_tau"]) and np.isnan(row["spearman"])
        bounds = row["weighted_tau_low"], row["weighted_tau_high"]
        said = MISSING if blind else verdict(*bounds, encoders=row["encoders"])
        cost = row["relative_cost"]
        rows.append(
            [
                str(row["outcome"]),
                str(row["score"]),
                said,
                *(_with_interval(row, name, digits) for name, digits in _SHOWN.items()),
                MISSING if row["most"] <= LEAST else quantity(row["top3"], "score"),
                str(row["tasks"]),
                " to ".join(dict.fromkeys([str(row["encoders"]), str(row["most"])])),
                *([MISSING if np.isnan(cost) else _percent(cost)] if costs else []),
            ]
        )
    return head, rows


def tabulate_tasks(validation: ScoreValidation) -> tuple[list[str], list[list[str]]]:
    """Task by task: each score's weighted tau and what it picked.

    Returns:
        The head and the rows of a table; the first four columns are text.
    """
    head = ["Task", "Outcome", "Score", "Pick", "Best", "Weighted tau", "Regret", "Encoders"]
    rows = [
        [
            str(row["task"]),
            str(row["outcome"]),
            str(row["score"]),
            *(str(row[name]) if isinstance(row[name], str) else MISSING for name in _NAMES),
            quantity(row["weighted_tau"], "score"),
            quantity(row["regret"], "score"),
            str(row["encoders"]),
        ]
        for row in validation.tasks.to_dict("records")
    ]
    return head, rows


_NAMES = ("pick", "best")
_SHOWN = {"weighted_tau": 2, "spearman": 2, "pearson": 2, "regret": 3}


def _percent(share: float) -> str:
    """Two digits, also below a percent."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _with_interval(row: Mapping[Hashable, Any], name: str, digits: int) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return MISSING
    texts = [f"{round(number, digits) + 0.0:.{digits}f}" for number in (value, low, high)]
    return texts[0] if np.isnan(low) else f"{texts[0]} ({texts[1]} to {texts[2]})"
