"""Submissions with predictions that have a known spread."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medtransfer.ranking.boards.layout import lay_out
from medtransfer.ranking.records.submissions import Submission
from medtransfer.specs.record import ArrayRef
from tests.helpers.boards import QUICK, SUITES, made, submission

STORED = 200


def measured(
    folder: Path, name: str, *, value: float = 0.8, seed: int | None = None, **options: Any
) -> Submission:
    """A submission with replicates of every ok cell around its value, kept in a folder."""
    plain = submission(name, value=value, **options)
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.mkdir()
    rng = np.random.default_rng(seed if seed is not None else zlib.crc32(name.encode()))
    arrays, records = {}, []
    for record in plain.records:
        if record.status == "ok":
            key = "/".join(map(str, record.cell))
            for split in ("in_domain", "scanner", "corrupted"):
                centre = record.metrics.get(split, {"auroc": value - 0.2})
                centre = next(iter(centre.values()))
                arrays[f"{key}/{split}"] = (centre + 0.02 * rng.normal(size=STORED)).astype("f4")
            record = record.model_copy(
                update={"replicates": ArrayRef(file="replicates.npz", key=key)}
            )
        records.append(record)
    np.savez(path / "replicates.npz", **arrays)
    text = yaml.safe_dump(plain.card.model_dump(mode="json"))
    (path / "encoder.yaml").write_text(text, encoding="utf-8")
    (path / "records.jsonl").write_text("".join(f"{record.line()}\n" for record in records))
    return made(plain.card, records, path)


def groups_of(*submissions: Submission):
    [layout] = [
        layout
        for layout in lay_out(submissions, SUITES, {"quick": QUICK}, single=True)
        if layout.suite == next(iter(SUITES)) and not layout.kind
    ]
    return layout
