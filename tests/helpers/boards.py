"""Submissions with made-up numbers, and leaderboards of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medtransfer import ranking
from medtransfer.ranking import Board, Submission
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.record import Cell, Record
from medtransfer.specs.task import Suite

QUICK = load_protocol("quick")
DOMAINS = {"shapes": "natural", "chest": "chest-xray", "slices": "ct", "retina": "oct"}
MASKS = {"lungs": "chest-xray", "polyps": "endoscopy"}
SUITES = {"phantom": Suite(title="Drawn, not seen", tasks=list(DOMAINS))}
CELLS = [
    Cell(task, budget, adaptation, draw)
    for task in DOMAINS
    for adaptation in QUICK.ranked
    for budget, draws in QUICK.budgets(adaptation, "multiclass").items()
    for draw in range(draws)
]


def segmentation_cells(task: str) -> list[Cell]:
    return [
        Cell(task, budget, adaptation, draw)
        for adaptation in QUICK.adaptations("segmentation")
        for budget, draws in QUICK.budgets(adaptation, "segmentation").items()
        for draw in range(draws)
    ]


Change = Callable[[Cell, dict[str, Any]], dict[str, Any] | None]


def card(name: str, **fields: Any) -> EncoderCard:
    return EncoderCard.model_validate(
        {"name": name, "title": f"The {name}", "architecture": {"timm": "resnet18"}, **fields}
    )


def record(encoder: str, cell: Cell, *, value: float = 0.8, **fields: Any) -> dict[str, Any]:
    """The JSON of one ``ok`` record; the out-of-domain splits are a tenth and two tenths worse."""
    masks = cell.task in MASKS
    kind, metric = ("segmentation", "dice") if masks else ("multiclass", "auroc")
    return {
        "schema": 1,
        "encoder": {"name": encoder, "sha256": f"sha of {encoder}"},
        "task": {
            "name": cell.task,
            "fingerprint": f"{cell.task} 1",
            "domain": (DOMAINS | MASKS).get(cell.task, "natural"),
            "kind": kind,
            "metric": metric,
            "chance": 0.0 if masks else 0.5,
        },
        "protocol": {"name": "quick", "fingerprint": QUICK.fingerprint(kind, cell.adaptation)},
        "budget": cell.budget,
        "adaptation": cell.adaptation,
        "draw": cell.draw,
        "status": "ok",
        "metrics": {
            "in_domain": {metric: value, "n": 400},
            "scanner": {metric: value - 0.1, "n": 400},
            "corrupted/blur/1": {metric: value - 0.1, "n": 400},
            "corrupted/blur/5": {metric: value - 0.3, "n": 400},
        },
        "cost": {
            "adaptation_flops": 10**12,
            "inference_flops_per_image": 3_640_000_000,
            "parameters": 11_700_000,
            "trainable_parameters": 1000,
            "images_seen": 100,
            "seconds": 2.5,
            "peak_memory_bytes": 10**9,
            "device": "cpu",
        },
        "started": "2025-01-01T00:00:00Z",
        "finished": "2025-01-01T00:00:01Z",
        **fields,
    }


def submission(
    name: str,
    *,
    value: float = 0.8,
    change: Change = lambda cell, fields: fields,
    cells: Iterable[Cell] = CELLS,
    **fields: Any,
) -> Made:
    """An encoder with a record of every cell; ``change`` alters or (null) drops one."""
    drafts = (change(cell, record(name, cell, value=value)) for cell in cells)
    return made(card(name, **fields), [Record.model_validate(draft) for draft in drafts if draft])


@dataclass(frozen=True)
class Made(Submission):
    """A submission that knows the records it was made of."""

    records: tuple[Record, ...] = ()


def made(card: EncoderCard, records: Sequence[Record], folder: Path | None = None) -> Made:
    plain = Submission.of(card, records, folder=folder)
    return Made(**vars(plain), records=tuple(records))


def rank(*submissions: Submission, suites: dict[str, Suite] = SUITES) -> Board:
    [board] = ranking.boards(submissions, suites, {"quick": QUICK})
    return board


def at(cell: Cell, **fields: Any) -> Change:
    """Give one cell other fields."""
    return lambda this, draft: {**draft, **fields} if this == cell else draft


def without(cell: Cell) -> Change:
    return lambda this, draft: None if this == cell else draft


def save(folder: Path, *submissions: Made) -> Path:
    for one in submissions:
        path = folder / one.card.name
        path.mkdir(parents=True)
        (path / "encoder.yaml").write_text(yaml.safe_dump(one.card.model_dump(mode="json")))
        (path / "records.jsonl").write_text("".join(f"{r.line()}\n" for r in one.records))
    return folder


FINETUNED = Cell("chest", "full", "finetune", 0)
FAILURE = {"status": "failed", "metrics": {}, "cost": None, "error": "out of memory"}
DIVERGED = {"status": "diverged", "metrics": {}}
SKIPPED = {"status": "not_applicable", "metrics": {}, "cost": None}
MIXED = [Cell("chest", *cell[1:]) for cell in CELLS if cell.task == "chest"]
MIXED += [*segmentation_cells("lungs"), *segmentation_cells("polyps")]
MIXED_SUITES = {"mixed": Suite(tasks=["chest", "lungs", "polyps"])}
