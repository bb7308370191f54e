"""Masks of users in image files with a table: which are refused."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtransfer.data.store import open_task
from medtransfer.specs.task import load_tasks
from tests.conftest import Bench
from tests.helpers.segmentation_cards import COUNTS, IMAGES, MASK, MASKS, Mask, refuse, write_task

Rows = list[list[str]]
WRONG = "f/masks/train3.png"


def write_folder(folder: Path) -> Rows:
    """The task ``d`` of image files, and the rows of its table."""
    (folder / "f" / "masks").mkdir(parents=True)
    rows = [["file", "split", "mask"]]
    for split in COUNTS:
        for number, (image, mask) in enumerate(zip(IMAGES[split], MASKS[split], strict=True)):
            name = f"{split}{number}.png"
            Image.fromarray(image).save(folder / "f" / name)
            Image.fromarray(mask).save(folder / "f" / "masks" / name)
            rows.append([name, split, f"masks/{name}"])
    source = {"folder": "f", "table": "table.csv", "size": 16, "channels": 1}
    sources = {"train": "train", "validation": "val", "in_domain": "test"}
    card = {name: source | {"split": split} for name, split in sources.items()}
    write_task(folder, card=card)
    return rows


def write_table(folder: Path, rows: Rows) -> None:
    with (folder / "f" / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def colours(*channels: int) -> Mask:
    """The right mask times a number in each channel; 255 is an opaque one."""
    return np.stack([MASK * 0 + 255 if c == 255 else MASK * c for c in channels], axis=2)


def reopen_mode(pixels: Mask) -> str:
    """What this version of Pillow calls such a PNG: 16 bits are I or I;16."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return Image.open(file).mode


FILES: dict[str, tuple[Mask | bytes | None, str]] = {
    "unnamed class": (
        np.where(MASK == 2, 3, MASK).astype(np.uint8),
        "d: train: f/table.csv (train): item train3.png: mask value 3 is none of the card's 3 "
        "classes (0 to 2)",
    ),
    "0 and 255": (
        np.where(MASK > 0, 255, 0).astype(np.uint8),
        "d: train: f/table.csv (train): item train3.png: mask value 255 is none of the card's 3 "
        "classes (0 to 2); save each pixel as the id of its class",
    ),
    "another size": (
        MASK[:12],
        f"d: train: {WRONG}: a mask of 16 x 12 pixels; its image train3.png has 16 x 16",
    ),
    "colours": (
        colours(1, 0, 2),
        f"d: train: {WRONG}: a mask of mode RGB (3 channels); one 8-bit channel of class ids is "
        "expected",
    ),
    "grey as colours": (
        colours(1, 1, 1),
        f"d: train: {WRONG}: a mask of mode RGB (3 channels); one 8-bit channel of class ids is "
        "expected; it is grey, so save only its first",
    ),
    "transparency": (
        colours(1, 1, 1, 255),
        f"d: train: {WRONG}: a mask of mode RGBA (4 channels); one 8-bit channel of class ids is "
        "expected; it is grey, so save only its first",
    ),
    "16 bits": (
        MASK.astype(np.uint16),
        f"d: train: {WRONG}: a mask of mode {reopen_mode(MASK.astype(np.uint16))}; "
        "one 8-bit channel of class ids is expected",
    ),
    "no image": (
        b"a mask",
        f"d: train: {WRONG}: not an image (PNG, JPEG, TIFF, BMP, GIF or DICOM)",
    ),
    "nothing in the file": (
        b"",
        "f/table.csv: row 5: mask: 'masks/train3.png': the file is empty (0 bytes)",
    ),
    "missing": (None, "f/table.csv: row 5: mask: 'masks/train3.png': no such file"),
}


@pytest.mark.parametrize("case", FILES)
def test_wrong_files_are_refused(case: str, tmp_path: Path, bench: Bench) -> None:
    """One line names the file, or the row of the table, and what is right."""
    write_table(tmp_path, write_folder(tmp_path))
    content, message = FILES[case]
    (tmp_path / WRONG).unlink()
    if isinstance(content, bytes):
        (tmp_path / WRONG).write_bytes(content)
    elif content is not None:
        Image.fromarray(content).save(tmp_path / WRONG)
    assert refuse(tmp_path, bench) == message


TABLES: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "no path": (
        lambda rows: [[*row[:2], ""] if row[0] == "train3.png" else row for row in rows],
        "f/table.csv: row 5: mask: ''; a path relative to the folder and inside it is expected",
    ),
    "another name of the column": (
        lambda rows: [[*rows[0][:2], "masks"], *rows[1:]],
        "f/table.csv: row 2: masks: 'masks/train0.png'; 1, 0, or -1 or nothing (unknown) is "
        "expected in the column of a label; a column of masks is called 'mask'",
    ),
    "names and no masks": (
        lambda rows: [[*rows[0][:2], "label"], *([*row[:2], "vessel"] for row in rows[1:])],
        "d: train: f/table.csv (train): holds no masks, but the card's kind is segmentation; an "
        ".npz has them in <split>_masks, a folder in the column 'mask' of its table",
    ),
    "no rows of a split": (
        lambda rows: [row for row in rows if row[1] != "val"],
        "f/table.csv: split: no row has 'val'; known: test, train",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables_are_refused(case: str, tmp_path: Path, bench: Bench) -> None:
    """One line names the table, its row and column, and what is right."""
    change, message = TABLES[case]
    write_table(tmp_path, change(write_folder(tmp_path)))
    assert refuse(tmp_path, bench) == message


def test_masks_of_a_folder_need_a_card_of_their_kind(tmp_path: Path, bench: Bench) -> None:
    """A classification card does not read them as anything."""
    write_table(tmp_path, write_folder(tmp_path))
    card = tmp_path / "cards" / "d.yaml"
    text = card.read_text().replace("segmentation", "multiclass")
    card.write_text(text.replace("dice", "auroc"))
    assert refuse(tmp_path, bench) == (
        "d: train: f/table.csv (train): holds masks, but the card's kind is multiclass; kind: "
        "segmentation is expected"
    )


def test_indices_of_a_palette_are_ids(tmp_path: Path, bench: Bench) -> None:
    """Annotation tools write such masks; their colours do not matter."""
    write_table(tmp_path, write_folder(tmp_path))
    mask = Image.fromarray(MASK).convert("P")
    mask.putdata(MASK.reshape(-1).tolist())
    mask.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    mask.save(tmp_path / WRONG)
    outcome = bench("validate", tmp_path / "cards", "--data", tmp_path)
    assert outcome.code == 0, outcome.err
    split = open_task(load_tasks(tmp_path / "cards")["d"], folder=tmp_path).splits["train"]
    assert split.masks is not None
    np.testing.assert_array_equal(split.masks[split.ids.index("train3.png")], MASK)
