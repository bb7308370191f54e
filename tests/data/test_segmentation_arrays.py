"""Masks of users in arrays: which are taken, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.data.sources import npz as npz_source
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_tasks
from tests.conftest import Bench, write_card, write_npz
from tests.helpers.segmentation_cards import (
    CLASSES,
    COUNTS,
    IMAGES,
    MASKS,
    Mask,
    refuse,
    write_task,
)


def mark(value: int, dtype: str = "uint8", split: str = "train") -> Mask:
    """The right masks but for one pixel of the fourth."""
    masks = MASKS[split].astype(dtype)
    masks[3, 5, 6] = value
    return masks


NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "unnamed class": (
        {"train_masks": mark(3)},
        "d: train: d.npz: item 3: mask value 3 is none of the card's 3 classes (0 to 2)",
    ),
    "unnamed class in a test": (
        {"test_masks": mark(9, split="test")},
        "d: in_domain: d.npz: item 3: mask value 9 is none of the card's 3 classes (0 to 2)",
    ),
    "0 and 255 of three classes": (
        {"train_masks": (MASKS["train"] > 0).astype(np.uint8) * 255},
        "d: train: d.npz: item 1: mask value 255 is none of the card's 3 classes (0 to 2); save "
        "each pixel as the id of its class",
    ),
    "0 and 255 of two classes": (
        {
            "card": {"classes": CLASSES[:2]},
            "train_masks": (MASKS["train"] > 0).astype(np.uint8) * 255,
        },
        "d: train: d.npz: item 1: mask value 255 is none of the card's 2 classes (0 to 1); save "
        "255 as 1",
    ),
    "255 to be ignored": (
        {"train_masks": mark(255)},
        "d: train: d.npz: item 3: mask value 255 is none of the card's 3 classes (0 to 2); no "
        "value means 'ignore': save each pixel as the id of a class",
    ),
    "shades of grey": (
        {"train_masks": np.array([0, 127, 255], np.uint8)[MASKS["train"]]},
        "d: train: d.npz: item 1: mask value 127 is none of the card's 3 classes (0 to 2)",
    ),
    "another size": (
        {"train_masks": np.zeros((12, 8, 16), np.uint8)},
        "d.npz: train_masks: shape (12, 8, 16); (12, 16, 16) is expected, one class id for each "
        "pixel of the images",
    ),
    "fewer masks": (
        {"val_masks": MASKS["val"][:3]},
        "d.npz: val_masks: shape (3, 16, 16); (4, 16, 16) is expected, one class id for each "
        "pixel of the images",
    ),
    "colours": (
        {"train_masks": MASKS["train"][..., None].repeat(3, axis=3)},
        "d.npz: train_masks: shape (12, 16, 16, 3); (12, 16, 16) is expected, one class id for "
        "each pixel of the images",
    ),
    "float": (
        {"train_masks": MASKS["train"].astype(np.float32)},
        "d.npz: train_masks: float32 masks; uint8 class ids are expected",
    ),
    "negative": (
        {"train_masks": mark(-1, "int16")},
        "d: train: d.npz: train_masks: value -1; 0 to 255 is expected (item 3)",
    ),
    "beyond a byte": (
        {"train_masks": mark(257, "int64")},
        "d: train: d.npz: train_masks: value 257; 0 to 255 is expected (item 3)",
    ),
    "objects": (
        {"train_masks": np.array([None] * 12, object)},
        "d.npz: train_masks: holds pickled Python objects, which are never loaded",
    ),
    "no masks": (
        {"train_masks": None},
        "d.npz: train_labels: no such array, and no train_masks for segmentation; found: "
        "train_images",
    ),
    "another name": (
        {"train_masks": None, "train_mask": MASKS["train"]},
        "d.npz: train_labels: no such array, and no train_masks for segmentation; found: "
        "train_images, train_mask",
    ),
    "labels and no masks": (
        {"train_masks": None, "train_labels": np.arange(12) % 3},
        "d: train: d.npz: holds no masks, but the card's kind is segmentation; an .npz has them in "
        "<split>_masks, a folder in the column 'mask' of its table",
    ),
    "empty split": (
        {"val_images": IMAGES["val"][:0], "val_masks": MASKS["val"][:0]},
        "d.npz: val_images: the split is empty (shape (0, 16, 16))",
    ),
    "nothing to learn": (
        {"train_masks": MASKS["train"] * 0},
        "d: train: d.npz: only one class; two are needed: every pixel of the masks is background",
    ),
    "nothing to select by": (
        {"val_masks": MASKS["val"] * 0},
        "d: validation: d.npz: only one class; two are needed: every pixel of the masks is "
        "background",
    ),
    "nothing to find": (
        {"test_masks": MASKS["test"] * 0},
        "d: in_domain: d.npz: only one class; two are needed: every pixel of the masks is "
        "background",
    ),
    "nothing but one structure": (
        {"test_masks": MASKS["test"] * 0 + 1},
        "d: in_domain: d.npz: only one class; two are needed: every pixel of the masks is vessel",
    ),
    "class without example": (
        {"train_masks": MASKS["train"] % 2},
        "d: train: d.npz: class 'lesion' has no training example: no mask holds it",
    ),
    "more classes than a byte has values": (
        {"card": {"classes": [f"class {number}" for number in range(256)]}},
        "d: train: d.npz: 256 classes; masks tell at most 255 apart",
    ),
    "a card of another kind": (
        {"card": {"kind": "multiclass", "metric": "auroc"}},
        "d: train: d.npz: holds masks, but the card's kind is multiclass; kind: segmentation is "
        "expected",
    ),
}


@pytest.mark.parametrize("case", NPZ)
def test_wrong_arrays_are_refused(
    case: str,
    tmp_path: Path,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line names the task, the split, the file, the first wrong item, and what is right."""
    monkeypatch.setattr(npz_source, "_BATCH_BYTES", 1)  # so that items lie in other batches
    arrays, message = NPZ[case]
    write_task(tmp_path, **arrays)
    assert refuse(tmp_path, bench) == message


def test_wrong_external_test_is_refused(tmp_path: Path, bench: Bench) -> None:
    """An external split without any structure measures nothing, and spoils a run beforehand."""
    external = {"elsewhere": {"npz": "e.npz", "split": "test"}}
    write_task(tmp_path, card={"out_of_domain": external})
    write_npz(
        tmp_path / "e.npz",
        **{"test_images": IMAGES["test"], "test_labels": None, "test_masks": MASKS["test"] * 0},
    )
    write_card(tmp_path / "cards", "a_right_one", "small.npz")
    write_npz(tmp_path / "small.npz")
    assert refuse(tmp_path, bench) == (
        "d: elsewhere: e.npz: only one class; two are needed: every pixel of the masks is "
        "background"
    )


RIGHT: dict[str, dict[str, Any]] = {
    "int16": {"train_masks": MASKS["train"].astype(np.int16)},
    "int64": {"train_masks": MASKS["train"].astype(np.int64)},
    "big-endian": {"train_masks": MASKS["train"].astype(">u2")},
    "labels too": {"train_labels": np.arange(12)},
    "class absent in a test": {"test_masks": np.minimum(MASKS["test"], 1)},
    "no background": {"train_masks": MASKS["train"] % 2 + 1},
    "bool": {
        "card": {"classes": CLASSES[:2]},
        **{f"{split}_masks": masks > 0 for split, masks in MASKS.items()},
    },
}


@pytest.mark.parametrize("case", RIGHT)
def test_right_arrays_are_taken(case: str, tmp_path: Path, bench: Bench) -> None:
    """Integers of any width and booleans are ids; a structure may be absent from a test."""
    write_task(tmp_path, **RIGHT[case])
    outcome = bench("validate", tmp_path / "cards", "--data", tmp_path)
    assert outcome.code == 0, outcome.err
    data = open_task(load_tasks(tmp_path / "cards")["d"], folder=tmp_path)
    for split, name in zip(("train", "validation", "in_domain"), COUNTS, strict=True):
        expected = RIGHT[case].get(f"{name}_masks", MASKS[name])
        np.testing.assert_array_equal(data.splits[split].masks, expected)  # type: ignore[arg-type]
        assert data.splits[split].labels.shape == (COUNTS[name], 0)
