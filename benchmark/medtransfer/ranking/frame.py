"""Records -> one long table: a row per encoder, cell and test split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from medtransfer.ranking.submissions import Submission
from medtransfer.specs.record import Record

__all__ = ["COSTS", "IN_DOMAIN", "KINDS", "frame", "most_common"]

IN_DOMAIN = "in_domain"
# What boards and tables tell apart; labels that exclude each other or occur together are one.
KINDS = ("classification", "segmentation")

COSTS = [
    "adaptation_flops",
    "inference_flops_per_image",
    "parameters",
    "trainable_parameters",
    "seconds",
    "peak_memory_bytes",
    "energy_joules",
]
_KEY = ["encoder", "protocol", "protocol_fingerprint", "task", "fingerprint", "adaptation"]
_KEY += ["budget", "draw", "split"]
_TYPES = {"draw": int, "value": float, "chance": float} | dict.fromkeys(COSTS, float)
_COLUMNS = [
    *_KEY,
    "domain",
    "kind",
    "metric",
    "chance",
    "status",
    "error",
    "value",
    *COSTS,
    "device",
]


def frame(submissions: Sequence[Submission]) -> pd.DataFrame:
    """All records in long form: one row per encoder, cell and test split.

    The test splits of a task are those that any ``ok`` record of the same fingerprint has. A
    ``diverged`` cell has the value of chance on each of them; a ``failed`` or ``not_applicable``
    one has none.

    Returns:
        Columns encoder, protocol, protocol_fingerprint, task, fingerprint, adaptation, budget,
        draw, split, domain, kind, metric (its name), chance, status, error, value, the costs of the
        cell (repeated on each split), device, and score = (value - chance) / (1 - chance), which
        is negative below chance. Sorted, whatever the order of the submissions.
    """
    records = [record for submission in submissions for record in submission.records]
    splits: dict[tuple[str, str], set[str]] = {}
    for record in records:
        known = splits.setdefault((record.task.name, record.task.fingerprint), {IN_DOMAIN})
        if record.status == "ok":
            known.update(record.metrics)
    rows = [
        _row(record, split)
        for record in records
        for split in splits[record.task.name, record.task.fingerprint]
    ]
    table = pd.DataFrame(rows, columns=_COLUMNS).astype(_TYPES)
    table["score"] = (table["value"] - table["chance"]) / (1 - table["chance"])
    return table.sort_values(_KEY, ignore_index=True)


def _row(record: Record, split: str) -> dict[str, Any]:
    task = record.task
    value: float | None = None
    if record.status == "ok":
        value = record.metrics.get(split, {}).get(task.metric)
    elif record.status == "diverged":
        value = task.chance
    row = {
        "encoder": record.encoder.name,
        "protocol": record.protocol.name,
        "protocol_fingerprint": record.protocol.fingerprint,
        "task": task.name,
        "fingerprint": task.fingerprint,
        "adaptation": record.adaptation,
        "budget": record.budget,
        "draw": record.draw,
        "split": split,
        "domain": task.domain,
        "kind": task.kind,
        "metric": task.metric,
        "chance": task.chance,
        "status": record.status,
        "error": record.error,
        "value": value,
    }
    if record.cost:
        row |= {name: getattr(record.cost, name) for name in [*COSTS, "device"]}
    return row


def most_common(rows: pd.DataFrame, column: str) -> dict[str, str]:
    """For every task the value of ``column`` that most records have; ties to the first by name."""
    records = rows[rows["split"] == IN_DOMAIN]
    counts = records.groupby(["task", column]).size().reset_index(name="rows")
    counts = counts.sort_values(["task", "rows", column], ascending=[True, False, True])
    first = counts.drop_duplicates("task")
    return dict(zip(first["task"], first[column], strict=True))
