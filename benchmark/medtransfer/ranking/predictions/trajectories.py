"""Checkpoints of pre-training runs: picks by transferability scores, and their outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.core.errors import InputError
from medtransfer.core.text import MISSING
from medtransfer.ranking.predictions.predictions import (
    SOURCE_ACCURACY,
    outcomes_of_records,
    scores_of,
    tabulate_validation,
)
from medtransfer.ranking.predictions.score_validation import (
    RANDOM,
    ScoreValidation,
    validate_scores,
)
from medtransfer.ranking.records.submissions import Submission
from medtransfer.specs.encoder import EncoderCard, PretrainingRun
from medtransfer.specs.protocol import Protocol

LAST, SOURCE = "last checkpoint", "source accuracy"
"""Baselines of a score, beside a random pick."""

_REPLICATES = 1000


@dataclass(frozen=True)
class Trajectory:
    """The encoders of one pre-training run, by the images they have seen.

    Attributes:
        name: The run's.
        cards: Of the checkpoints, the first first.
    """

    name: str
    cards: Sequence[EncoderCard]

    @property
    def seen(self) -> dict[str, int]:
        """Images that each has seen in this run, by name."""
        return {card.name: _run_of(card).images_seen for card in self.cards}

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over the images, by name."""
        return {card.name: _run_of(card).epochs for card in self.cards}


def _run_of(card: EncoderCard) -> PretrainingRun:
    assert card.pretraining.run is not None
    return card.pretraining.run


@dataclass(frozen=True)
class Studied:
    """Trajectories with their scores and outcomes.

    Attributes:
        points: One row a trajectory, task, checkpoint and series: trajectory, task, encoder, epoch,
            seen, series (a score or an adaptation), kind (``score`` or ``outcome``) and value.
        validation: Of the scores; its tasks are called ``trajectory: task``, its encoders are the
            checkpoints, which resemble each other more than encoders do.
        picks: One row a trajectory, task and score: encoder, epoch, last (epoch) and saved (the
            share of the epochs that the pick does without).
        saved: One row an outcome and score: mean of what is saved by picking among the checkpoints
            with outcomes, low and high (95 %, pairs of a trajectory and a task drawn anew).
    """

    points: pd.DataFrame
    validation: ScoreValidation
    picks: pd.DataFrame
    saved: pd.DataFrame


def study_trajectories(
    trajectories: Sequence[Trajectory],
    submissions: Mapping[str, Submission],
    *,
    protocol: Protocol,
    tasks: Sequence[str],
) -> Studied:
    """Collect scores and outcomes of trajectories, and validate the scores.

    Args:
        trajectories: Of checkpoints whose scores are among the submissions.
        submissions: By encoder; without records there are no outcomes.
        protocol: Under which both were made.
        tasks: The targets.
    """
    scores, outcomes = [], []
    for trajectory in trajectories:
        checkpoints = {name: submissions[name] for name in trajectory.seen if name in submissions}
        scores.append(_scores(trajectory, checkpoints, protocol.name, tasks))
        came_out = outcomes_of_records(checkpoints, protocol, tasks=tasks)
        outcomes.append(came_out.assign(trajectory=trajectory.name))
    said, came = pd.concat(scores, ignore_index=True), pd.concat(outcomes, ignore_index=True)
    label = "trajectory"
    joined = [
        table.assign(task=table[label].astype(str) + ": " + table["task"].astype(str))
        for table in (said, came)
    ]
    validation = validate_scores(joined[0], joined[1])
    epochs = {
        name: epoch for trajectory in trajectories for name, epoch in trajectory.epochs.items()
    }
    seen = {name: images for trajectory in trajectories for name, images in trajectory.seen.items()}
    columns = [label, "task", "encoder", "series", "kind", "value"]
    parts = [
        said.rename(columns={"score": "series"}).assign(kind="score")[columns],
        came.rename(columns={"outcome": "series"}).assign(kind="outcome")[columns],
    ]
    # Without what is empty, of which pandas before 3 would take the types.
    points = pd.concat([part for part in parts if len(part)] or parts)
    points["epoch"] = points["encoder"].map(epochs)
    points["seen"] = points["encoder"].map(seen)
    points = points[[label, "task", "encoder", "epoch", "seen", "series", "kind", "value"]]
    picks = _picks(said, trajectories)
    return Studied(points, validation, picks, _saved(validation, trajectories))


def _scores(
    trajectory: Trajectory,
    checkpoints: Mapping[str, Submission],
    protocol: str,
    tasks: Sequence[str],
) -> pd.DataFrame:
    """Scores of all targets; those without a target are repeated for each."""
    scores = scores_of(checkpoints, protocol=protocol, tasks=tasks)
    accuracy = {}
    for name, submission in checkpoints.items():
        rows = submission.scores
        rows = rows[(rows["score"] == SOURCE_ACCURACY) & (rows["protocol"] == protocol)]
        accuracy[name] = float(rows["value"].mean()) if len(rows) else float("nan")
    extra = pd.DataFrame(
        [
            {"encoder": name, "task": task, "score": score, "value": value}
            for task in dict.fromkeys(scores["task"])
            for score, values in ((LAST, trajectory.seen), (SOURCE, accuracy))
            for name, value in values.items()
            if name in checkpoints
        ],
        columns=["encoder", "task", "score", "value"],
    )
    whole = pd.concat([scores, extra.astype({"value": float})], ignore_index=True)
    return whole.assign(trajectory=trajectory.name)


def _picks(said: pd.DataFrame, trajectories: Sequence[Trajectory]) -> pd.DataFrame:
    epochs = {member.name: member.epochs for member in trajectories}
    rows = []
    groups = ["trajectory", "task", "score"]
    for key, part in said.dropna(subset=["value"]).groupby(groups, sort=False):
        trajectory, task, score = map(str, key)
        pick = part["encoder"].iloc[int(part["value"].to_numpy(float).argmax())]
        own_epochs = epochs[trajectory]
        last = max(own_epochs.values())
        rows.append(
            [trajectory, task, score, pick, own_epochs[pick], last, _share(own_epochs[pick], last)]
        )
    return pd.DataFrame(rows, columns=[*groups, "encoder", "epoch", "last", "saved"])


def _share(epoch: float, last: float) -> float:
    return 1 - epoch / last if last else 0.0


def _saved(validation: ScoreValidation, trajectories: Sequence[Trajectory]) -> pd.DataFrame:
    """Epochs saved by picks among the checkpoints with outcomes."""
    saved = {
        name: _share(epoch, max(member.epochs.values()))
        for member in trajectories
        for name, epoch in member.epochs.items()
    }
    validated = validation.tasks[validation.tasks["score"] != RANDOM]
    rows = []
    for key, part in validated.groupby(["outcome", "score"], sort=False):
        values = part["pick"].map(saved).to_numpy(float)
        drawn = np.random.default_rng(0).integers(0, len(values), (_REPLICATES, len(values)))
        low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
        rows.append([*map(str, key), values.mean(), low, high])
    return pd.DataFrame(rows, columns=["outcome", "score", "saved", "low", "high"])


def tabulate_points(studied: Studied) -> Iterator[tuple[list[str], list[list[str]]]]:
    """For each trajectory and task a table: one row a checkpoint, outcomes, then scores."""
    for key, points in studied.points.groupby(["trajectory", "task"], sort=False):
        trajectory, task = map(str, key)
        series = points.drop_duplicates("series").sort_values("kind", kind="stable")["series"]
        checkpoints = points.drop_duplicates("encoder").sort_values("seen").to_dict("records")
        values = points.set_index(["encoder", "series"])["value"].to_dict()
        rows = []
        for row in checkpoints:
            cells = [values.get((row["encoder"], name), float("nan")) for name in series]
            texts = [MISSING if np.isnan(value) else f"{value:.4g}" for value in cells]
            rows.append([f"{row['epoch']:g}", f"{row['seen']:,}", *texts])
        yield [f"{trajectory}: {task}, epoch", "images seen", *map(str, series)], rows


def tabulate_picks(studied: Studied) -> tuple[list[str], list[list[str]]]:
    """Table of the checkpoint that each score picks, and the epochs it saves."""
    rows = [
        [
            *(str(row[name]) for name in ("trajectory", "task", "score")),
            f"{row['epoch']:g} of {row['last']:g}",
            _percent(row["saved"]),
        ]
        for row in studied.picks.to_dict("records")
    ]
    return ["Trajectory", "Task", "Score", "Picked epoch", "Epochs saved"], rows


def tabulate_trajectories(studied: Studied) -> tuple[list[str], list[list[str]]]:
    """Validation as a table, with the epochs saved."""
    head, rows = tabulate_validation(studied.validation.summary)
    head = ["Checkpoints" if name == "Encoders" else name for name in head]
    saved = {(row["outcome"], row["score"]): row for row in studied.saved.to_dict("records")}
    for row in rows:
        saving = saved.get((row[0], row[1]))
        if saving is None:
            row.append(MISSING)
        else:
            low, high = (f"{100 * saving[end]:.0f}" for end in ("low", "high"))
            row.append(f"{_percent(saving['saved'])} ({low} to {high})")
    return [*head, "Epochs saved"], rows


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


_SHOWN = 4  # scores in a picture: those with the highest weighted tau, and the robustness


def trajectory_rows(studied: Studied) -> tuple[list[dict[str, Any]], tuple[str, str]]:
    """Rows of the figure, and its two lines of title.

    Raises:
        InputError: When no score has a value, and there are no outcomes.

    Returns:
        Rows panel, part (outcomes, or scores), series, seen, value (of scores from 0, the lowest
        along the trajectory, to 1, the highest) and pick (yes, where a score is highest).
    """
    summary = studied.validation.summary
    ranked = summary.groupby("score")["weighted_tau"].mean().sort_values(ascending=False)
    names = [str(name) for name in ranked.index if name not in (LAST, RANDOM)]
    scores = studied.points.query("kind == 'score'")["series"].unique()
    names = names or [str(name) for name in scores if name != LAST]
    drawn = set(studied.points.dropna(subset=["value"])["series"])
    names = [name for name in names if name in drawn]
    shown = names[:_SHOWN]
    which = "those with the highest weighted tau" if len(summary) else "the first"
    if "robustness" in names and "robustness" not in shown:
        shown[-1] = "robustness"
        which += ", and robustness"
    rows = []
    groups = ["trajectory", "task", "kind", "series"]
    for (trajectory, task, kind, series), points in studied.points.groupby(groups, sort=False):
        defined = points.dropna(subset=["value"]).sort_values("seen")
        if defined.empty or (kind == "score" and series not in shown):
            continue
        values = defined["value"].to_numpy(float)
        top = values.argmax()
        if kind == "score":
            span = np.ptp(values)
            values = (values - values.min()) / span if span else np.full(len(values), 0.5)
        rows += [
            {
                "panel": f"{trajectory}: {task}",
                "part": "metric, in-domain" if kind == "outcome" else "score, scaled to 0 to 1",
                "series": str(series),
                "seen": int(seen),
                "value": round(float(value), 4),
                "pick": "yes" if number == top else "no",
            }
            for number, (seen, value) in enumerate(zip(defined["seen"], values, strict=True))
        ]
    if not rows:
        raise InputError("--figure: nothing to draw: no score and no outcome has a value")
    return rows, (
        "Transferability scores and outcomes along pre-training",
        "against images seen; a ring marks the checkpoint where a line is highest"
        + (f"; {len(shown)} of {len(names)} scores: {which}" if len(shown) < len(names) else ""),
    )
