"""Submissions with transferability scores."""

from __future__ import annotations

from medtransfer.ranking.records.submissions import Submission
from medtransfer.specs.score import ScoreRecord
from tests.helpers.boards import submission


def scored(name: str, value: float, **changes: object) -> Submission:
    """An encoder of the boards' tests with a metric everywhere, and two scores of each task."""
    one = submission(name, value=value)
    scores = [
        ScoreRecord.model_validate(
            {
                "encoder": made.encoder,
                "task": made.task,
                "protocol": "quick",
                "score": score,
                "fingerprint": f"{score} 1",
                "value": found,
                "images": 10,
                "flops": 10**10,
                "seconds": 1,
                "finished": made.finished,
                **changes,
            }
        )
        for made in {r.task.name: r for r in one.records}.values()
        for score, found in (("logme", value), ("gbc", -value), ("robustness[0,map,mse,1]", value))
    ]
    return Submission.of(one.card, one.records, scores=scores)


def several() -> list[Submission]:
    return [scored(name, 0.5 + number / 20) for number, name in enumerate("abcdef")]
