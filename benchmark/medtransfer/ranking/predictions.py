"""Transferability scores on a board: what they said, what came out, and how well they did."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.ranking.frame import IN_DOMAIN, join, most_common
from medtransfer.ranking.grid import Grid
from medtransfer.ranking.judgement import Judgement, judge_scores, verdict
from medtransfer.ranking.layout import Layout
from medtransfer.ranking.submissions import Submission
from medtransfer.ranking.text import MISSING, quantity

__all__ = [
    "judge_layout",
    "judge_submissions",
    "outcomes_of",
    "outcomes_of_records",
    "scores_of",
    "tabulate_judgement",
    "tabulate_tasks",
]


def judge_layout(layout: Layout) -> Judgement:
    """The scores of a board's encoders against what became of them on its ranked cells."""
    scores = scores_of(layout.submissions, protocol=layout.protocol, tasks=layout.domains)
    return judge_scores(scores, outcomes_of(layout.ranked))


def judge_submissions(
    submissions: Mapping[str, Submission], *, protocol: str, tasks: Collection[str]
) -> Judgement:
    """The same without a board, over the encoders that have both on a task."""
    scores = scores_of(submissions, protocol=protocol, tasks=tasks)
    return judge_scores(scores, outcomes_of_records(submissions, protocol=protocol, tasks=tasks))


def outcomes_of(grid: Grid) -> pd.DataFrame:
    """The primary metric in-domain of each encoder, task and adaptation: means over budgets.

    Returns:
        Columns encoder, task, outcome (the adaptation), value (null unless every budget and draw
        is there) and flops (of all the cells).
    """
    parts = []
    for (task, adaptation), rows in grid.groups.groupby(["task", "adaptation"], sort=False):
        own = grid.choose(rows.index.to_numpy())
        parts.append(
            pd.DataFrame(
                {
                    "encoder": own.encoders,
                    "task": task,
                    "outcome": adaptation,
                    "value": own.columns["value"].mean(axis=0),
                    "flops": own.columns["adaptation_flops"].sum(axis=0),
                }
            )
        )
    columns = ["encoder", "task", "outcome", "value", "flops"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def outcomes_of_records(
    submissions: Mapping[str, Submission], *, protocol: str, tasks: Iterable[str]
) -> pd.DataFrame:
    """The same without a board: over the budgets and draws that any of the encoders has."""
    columns = ["encoder", "task", "outcome", "value", "flops"]
    if not submissions:
        return pd.DataFrame(columns=columns)
    frame = join(list(submissions.values()))
    inside = frame.values[frame.values["split"] == IN_DOMAIN].set_index("cell")["value"]
    cells = frame.cells.assign(value=inside.reindex(frame.cells.index))
    cells = cells[(cells["protocol"] == protocol) & cells["task"].isin(set(tasks))]
    cells = cells[cells["status"].isin(["ok", "diverged"])]
    usual = most_common(cells, "fingerprint")
    cells = cells[cells["task"].astype(object).map(usual) == cells["fingerprint"].astype(object)]
    cells["value"] = cells["value"].where(cells["status"] != "diverged", cells["chance"])
    names = ["encoder", "task", "adaptation", "budget"]
    cells = cells.astype(dict.fromkeys(names, object))
    parts = []
    for key, part in cells.groupby(["task", "adaptation"], sort=False):
        task, adaptation = map(str, key)
        grid = part.pivot_table(
            index=["budget", "draw"], columns="encoder", values=["value", "adaptation_flops"]
        )
        found = pd.DataFrame(
            {
                "value": grid["value"].mean(axis=0, skipna=False),
                "flops": grid["adaptation_flops"].sum(axis=0, skipna=False),
            }
        ).reset_index()
        parts.append(found.assign(task=task, outcome=adaptation)[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def scores_of(
    submissions: Mapping[str, Submission], *, protocol: str, tasks: Iterable[str]
) -> pd.DataFrame:
    """The scores of encoders under a protocol, made from the weights and data of their records.

    Returns:
        Columns encoder, task, score, value and flops.
    """
    columns = ["encoder", "task", "score", "value", "flops"]
    wanted = set(tasks)
    parts = []
    for name, submission in submissions.items():
        own = submission.scores
        own = own[(own["protocol"] == protocol) & own["task"].isin(wanted)]
        known = submission.cells[["task", "fingerprint", "sha256"]].astype(object)
        own = own.merge(known.drop_duplicates(), on=["task", "fingerprint", "sha256"])
        own = own[~own["score"].str.contains("[", regex=False)]  # parts of a sweep
        parts.append(own.assign(encoder=name))
    if not parts:
        return pd.DataFrame(columns=columns)
    found = pd.concat(parts, ignore_index=True)
    # Of a score whose fixed values were changed, those that most encoders have.
    counts = found.groupby(["score", "made"])["encoder"].nunique().reset_index()
    usual = counts.sort_values(["encoder", "made"]).drop_duplicates("score", keep="last")
    return found.merge(usual[["score", "made"]], on=["score", "made"])[columns]


def tabulate_judgement(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """A judgement for people, the outcomes in turn, the best scores first.

    Returns:
        The head and the rows of a table; the first three columns are text.
    """
    shown = summary.assign(place=summary["weighted_tau"].fillna(-np.inf))
    order = {outcome: number for number, outcome in enumerate(summary["outcome"].unique())}
    shown = shown.assign(turn=shown["outcome"].map(order))
    shown = shown.sort_values(["turn", "place"], ascending=[True, False], kind="stable")
    costs = shown["relative_cost"].notna().any()
    head = ["Outcome", "Score", "Its ranking is", "Weighted tau", "Spearman", "Pearson"]
    head += ["Regret", "Best among its 3", "Tasks", "Encoders", *(["Cost"] if costs else [])]
    rows = []
    for row in shown.to_dict("records"):
        blind = np.isnan(row["weighted_tau"]) and np.isnan(row["spearman"])
        said = MISSING if blind else verdict(row["weighted_tau_low"], row["weighted_tau_high"])
        cost = row["relative_cost"]
        rows.append(
            [
                str(row["outcome"]),
                str(row["score"]),
                said,
                *(_with_interval(row, name, digits) for name, digits in _SHOWN.items()),
                quantity(row["top3"], "score"),
                str(row["tasks"]),
                str(row["encoders"]),
                *([MISSING if np.isnan(cost) else f"{100 * cost:.2g} %"] if costs else []),
            ]
        )
    return head, rows


def tabulate_tasks(judgement: Judgement) -> tuple[list[str], list[list[str]]]:
    """Task by task: each score's weighted tau and what it picked.

    Returns:
        The head and the rows of a table; the first four columns are text.
    """
    head = ["Task", "Outcome", "Score", "Picks", "Best is", "Weighted tau", "Regret", "Encoders"]
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
        for row in judgement.tasks.to_dict("records")
    ]
    return head, rows


_NAMES = ("pick", "best")
_SHOWN = {"weighted_tau": 2, "spearman": 2, "pearson": 2, "regret": 3}


def _with_interval(row: Mapping[Hashable, Any], name: str, digits: int) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return MISSING
    texts = [f"{number + 0.0:.{digits}f}" for number in (value, low, high)]
    return texts[0] if np.isnan(low) else f"{texts[0]} ({texts[1]} to {texts[2]})"
