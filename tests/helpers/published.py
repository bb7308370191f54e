"""A small published study: its CSV file, its mapping, its findings."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from medtransfer.ranking.published.board import Published
from medtransfer.ranking.published.study import PublishedRecord, Study
from tests.conftest import ROOT

COMMITTED = ROOT / "submissions" / "published"
MAPPING: dict[str, Any] = {
    "name": "doe-2020",
    "title": "A study",
    "citation": "Doe 2020",
    "licence": "CC0",
    "adaptation": "linear",
    "columns": {
        "encoder": "model",
        "task": "dataset",
        "budget": "shot",
        "draw": "seed",
        "metric": "metric",
        "value": "value",
    },
    "ignored": ["host"],
    "scale": "percent",
    "left_out": [{"column": "step", "values": ["warm up"], "reason": "not a result"}],
    "marked": {"short": {"column": "step", "values": [400], "reason": "was cut"}},
    "encoders": {
        "photos big": {"name": "photos-big", "pretraining": {"domains": ["natural"]}},
        "photos": {"name": "photos-small", "pretraining": {"domains": ["natural"]}},
        "xray": {"name": "xray", "pretraining": {"domains": ["chest-xray"]}},
    },
    "targets": {
        name: {
            "name": name.lower(),
            "domain": domain,
            "kind": "multiclass",
            "metric": "auroc",
            "chance": 0.5,
            "budgets": ["1-shot", "full"],
        }
        for name, domain in [("Cats", "natural"), ("Lungs", "chest-xray"), ("TB", "chest-xray")]
    },
    "budgets": {"all": "full", "1": "1-shot"},
    "draws": [7, 11],
    "metrics": {"auc": "auroc", "acc": "accuracy"},
}
PLAIN: dict[str, Any] = {"left_out": [], "marked": {}, "ignored": ["host", "step"]}
HEAD = "model,dataset,shot,seed,metric,value,step,host"
ROWS = [
    f"{model},{dataset},{shot},{seed},{metric},{50 + 3 * i},{500},a"
    for i, (model, dataset, shot, seed, metric) in enumerate(
        [
            ("photos", "Cats", "all", 7, "auc"),
            ("photos", "Cats", "all", 11, "auc"),
            ("photos", "Cats", "all", 7, "acc"),
            ("photos", "Cats", "1", 7, "auc"),
            ("photos big", "Lungs", "1", 11, "auc"),
            ("xray", "Lungs", "1", 7, "auc"),
            ("xray", "TB", "all", 7, "auc"),
        ]
    )
]


def put(
    folder: Path, *, rows: list[str] = ROWS, head: str = HEAD, **fields: Any
) -> tuple[Path, Path]:
    """Write a CSV and its mapping; fields change the mapping, null drops one."""
    mapping = {**copy.deepcopy(MAPPING), **fields}
    path = folder / "results.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    study = folder / "mapping.yaml"
    kept = {name: value for name, value in mapping.items() if value is not None}
    study.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path, study


def finding(
    *,
    a: str = "photos-big",
    tasks: list[str] | None = None,
    budget: str = "full",
    metric: str = "auroc",
    side: str = "above",
) -> dict[str, Any]:
    return {
        "title": "A claim",
        "text": "What was claimed.",
        "pairs": [{"a": a, "b": "xray", "tasks": tasks or ["lungs"]}],
        "expect": [{"budget": budget, "metric": metric, "a": side}],
    }


Value = Callable[[str, str, str, int, str], float | None]


def publish(value: Value, *, draws: int = 2, **fields: Any) -> Published:
    """A study with ``value(encoder, task, budget, draw, metric)`` in each cell; null: none."""
    fields = {"left_out": [], "draws": list(range(draws)), **fields}
    study = Study.model_validate({**MAPPING, **fields})
    records = []
    for cell in study.cells:
        metrics = {m: value(*cell, m) for m in ("auroc", "accuracy")}
        if kept := {m: v for m, v in metrics.items() if v is not None}:
            record = {"study": study.name, "adaptation": study.adaptation, "metrics": kept}
            records.append({**record, **cell._asdict()})
    return Published(study, tuple(PublishedRecord.model_validate(record) for record in records))


def varied(encoder: str, task: str, budget: str, draw: int, metric: str) -> float:
    """A number of its own for every cell."""
    seed = random.Random(f"{encoder}/{task}/{budget}/{draw}/{metric}")
    return 0.4 + 0.5 * seed.random()
