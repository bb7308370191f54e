"""Select the images of a contact sheet: the worst, the median and the best masks. No torch.

The masks may come from an untrusted submission, so all are checked before the first sheet is drawn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.arrays import Archive
from medtransfer.core.errors import InputError, suggest
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.split import Split, TaskData
from medtransfer.data.store import open_task
from medtransfer.metrics.evaluation import Floats, average_defined
from medtransfer.metrics.segmentation import score_overlap
from medtransfer.ranking import load_submission
from medtransfer.specs.record import ArrayRef, Record
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import find_task, load_tasks

Mask = NDArray[np.uint8]

GROUPS = ("worst", "about the median", "best")
SHOWN = 4  # images of a group


@dataclass(frozen=True)
class Tile:
    """One image: uint8 (H, W) or (H, W, 3), true and predicted class ids, Dice, and id."""

    image: NDArray[np.uint8]
    truth: Mask
    predicted: Mask
    dice: float
    id: str


@dataclass(frozen=True)
class Band:
    """A test split.

    Attributes:
        name: Name of the split.
        items: Number of images.
        dice: Mean foreground Dice of each image, if defined, in ascending order.
        groups: The tiles of the worst images, those about the median, and the best.
    """

    name: str
    items: int
    dice: Floats
    groups: tuple[list[Tile], ...]

    @property
    def mean(self) -> str:
        """The mean Dice over images, three decimals."""
        return f"{self.dice.mean():.3f}" if len(self.dice) else "undefined"

    @property
    def label(self) -> str:
        """Heading of the tiles."""
        label = f"{self.name}: {self.items} images, mean Dice over images {self.mean}"
        if undefined := self.items - len(self.dice):
            label += f"; {undefined} without a Dice (truth and prediction are empty) omitted"
        return label


@dataclass(frozen=True)
class Sheet:
    """One cell of an encoder: its title, the name of its file, and its test splits."""

    title: str
    file: str
    bands: tuple[Band, ...]


def read_sheets(
    folder: Path,
    *,
    names: Sequence[str] = (),
    task_folder: Path | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[str, list[Sheet]]:
    """Read the sheets of a submission: its segmentation cells of draw 0.

    Nothing is downloaded. Corrupted splits have no stored predictions, and so no band.
    """
    if not (folder / "encoder.yaml").is_file():
        raise InputError(
            f"{folder}: --predictions needs the folder of a submission, such as results/resnet18, "
            "with its encoder.yaml"
        )
    encoder, all_records = load_submission(folder)
    records = _find_records(folder, all_records, names)
    cards = load_tasks(task_folder)
    opened: dict[str, TaskData] = {}
    sheets = []
    for record in records:
        if (name := record.task.name) not in opened:
            if (card := find_task(name, cards)) is None:
                raise InputError(
                    f"{folder}: no card is called '{name}'; --tasks names the folder of its card"
                )
            opened[name] = open_task(card, folder=data, progress=progress, fetch=False)
        sheets.append(_read_sheet(folder, record, opened[name]))
    return encoder.name, sheets


def _find_records(folder: Path, records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """Find the records of draw 0 with predicted masks."""
    kept = [
        record
        for record in records
        if record.task.kind == "segmentation"
        and (record.status, record.draw) == ("ok", 0)
        and record.predictions is not None
    ]
    tasks = {record.task.name for record in kept}
    if not kept:
        others = sorted({f"{record.task.name} ({record.task.kind})" for record in records})
        raise InputError(
            f"{folder}: has no predicted masks of draw 0, only records of "
            f"{', '.join(others) or 'no task'}; run `bench evaluate` on a segmentation task"
        )
    for name in names:
        if name not in tasks:
            raise InputError(
                f"--task: {folder} has no predicted masks of '{name}'{suggest(name, tasks)}"
            )
    return [record for record in kept if not names or record.task.name in names]


def _read_sheet(folder: Path, record: Record, task: TaskData) -> Sheet:
    file = f"{record.task.name}_{record.adaptation}_{record.budget}.png"
    if not re.fullmatch(r"[a-z0-9._-]+", file):
        raise InputError(f"{folder}: {str(record.cell)!r} in a record is not a protocol's cell")
    if record.task.fingerprint != task.fingerprint:
        raise InputError(
            f"{folder}: {record.cell}: made from other data or another card of task "
            f"{record.task.name}; pass the --tasks and --data that it was made with"
        )
    assert record.predictions is not None
    # The hash depends on the record's order; the card's may have changed.
    splits = {
        name: task.tests[name]
        for name in record.metrics
        if not SplitName.parse(name).corrupted and name in task.tests
    }
    classes = len(task.card.classes)
    predictions = _read_predictions(folder, record.predictions, splits, classes=classes)
    title = (
        f"{record.encoder.name} | {task.card.title} | {record.adaptation}, {record.budget} | "
        f"protocol {record.protocol.name}"
    )
    bands = [
        _choose(name, split, predictions[name], classes=classes) for name, split in splits.items()
    ]
    return Sheet(title, file, tuple(bands))


def _read_predictions(
    folder: Path, reference: ArrayRef, splits: dict[str, Split], *, classes: int
) -> dict[str, Mask]:
    """Read the predicted masks of every split, and check them against the record."""
    path = folder / reference.file
    hasher = hashlib.sha256()
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: predictions.file: lies outside the submission")
        if not path.is_file():
            raise InputError(f"{path}: missing, but a record names it")
    except (OSError, ValueError) as error:  # an impossible file name
        raise InputError(f"{path}: cannot be read, damaged: {error}") from None
    with Archive(path) as archive:
        masks: dict[str, Mask] = {
            name: archive.read(f"{reference.key}/{name}", dtype="|u1", shape=split.class_maps.shape)
            for name, split in splits.items()
        }
    for name, array in masks.items():
        hasher.update(array.tobytes())
        if (largest := array.max()) >= classes:
            raise InputError(
                f"{path}: {reference.key}/{name}: class id {largest}; 0 to {classes - 1} is "
                "expected"
            )
    if hasher.hexdigest() != reference.sha256:
        raise InputError(
            f"{path}: {reference.key}: predictions.sha256: the masks differ from those of the "
            "record"
        )
    return masks


def _choose(name: str, split: Split, predicted: Mask, *, classes: int) -> Band:
    """Sort the images by Dice and choose disjoint groups."""
    truth = split.class_maps
    dice = average_defined(score_overlap(predicted, truth, classes=classes)["dice"])
    order = np.argsort(dice, kind="stable")[: np.count_nonzero(~np.isnan(dice))]  # NaN is last
    if len(order) < len(GROUPS) * SHOWN:
        chosen = np.array_split(order, len(GROUPS))
    else:
        middle = (len(order) - SHOWN) // 2
        chosen = [order[:SHOWN], order[middle : middle + SHOWN], order[-SHOWN:]]
    groups = tuple(
        [
            # A copy, so that masks that are not shown can be freed.
            Tile(split.images[i], truth[i], predicted[i].copy(), float(dice[i]), split.ids[i])
            for i in group
        ]
        for group in chosen
    )
    return Band(name, len(split), dice[order], groups)
