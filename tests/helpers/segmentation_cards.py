"""Cards and masks of small segmentation tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from medtransfer.data.files.cache import cache_folder
from tests.conftest import Bench, write_card, write_npz

Mask = NDArray[Any]
CLASSES = ["background", "vessel", "lesion"]
COUNTS = {"train": 12, "val": 4, "test": 4}
# Nothing, a vessel, then all: what is asked of a split holds for its masks together.
MASK = np.arange(256, dtype=np.uint8).reshape(16, 16) % 3
MASKS = {
    split: np.stack([MASK * 0, MASK // 2, *[MASK] * (count - 2)]) for split, count in COUNTS.items()
}
IMAGES = {
    split: np.random.default_rng(count).integers(0, 256, (count, 16, 16), dtype=np.uint8)
    for split, count in COUNTS.items()
}


def write_segmentation_card(folder: Path, changes: dict[str, Any]) -> None:
    path = write_card(folder / "cards", "d", "d.npz", out_of_domain={})
    kind = {"kind": "segmentation", "metric": "dice", "classes": CLASSES}
    path.write_text(json.dumps(yaml.safe_load(path.read_text()) | kind | changes))


def write_task(folder: Path, *, card: dict[str, Any] | None = None, **arrays: object) -> None:
    """A segmentation task ``d`` in ``d.npz``; ``arrays`` replace the right ones, or drop them."""
    right: dict[str, Any] = {"train_labels": None, "val_labels": None, "test_labels": None}
    for split in COUNTS:
        right |= {f"{split}_images": IMAGES[split], f"{split}_masks": MASKS[split]}
    write_npz(folder / "d.npz", **(right | arrays))
    write_segmentation_card(folder, card or {})


def refuse(folder: Path, bench: Bench) -> str:
    """The line with which both commands refuse the task; nothing of it is left behind."""
    shared = ("--data", folder)
    options = ("--protocol", "quick", "--budget", "10-shot", "--out", folder / "out")
    outcomes = [
        bench("validate", folder / "cards", *shared),
        bench("evaluate", "--encoder", "resnet18", "--tasks", folder / "cards", *shared, *options),
    ]
    validated, evaluated = (outcome.err.removeprefix("error: ") for outcome in outcomes)
    assert [outcome.code for outcome in outcomes] == [2, 2]
    # What is seen without decoding is said with the card's path before it.
    assert evaluated.count("\n") == 1 and validated.endswith(evaluated)
    assert not (folder / "out").exists()
    assert not list((cache_folder() / "splits").glob("build-*"))
    return evaluated.strip().replace(f"{folder}/", "")
