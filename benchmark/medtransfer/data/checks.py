"""Check decoded data against their card, and that every class can be learned and tested."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from medtransfer.core.errors import InputError
from medtransfer.data.labels import count_labels, find_classes
from medtransfer.specs.task import TaskCard

if TYPE_CHECKING:
    from medtransfer.data.split import Split, TaskData


def check_counts(card: TaskCard, name: str, split: Split) -> None:
    """Refuse a split whose sizes differ from the card's.

    Raises:
        InputError: Naming the task, the split and the numbers.
    """
    size, counts = card.sizes.get(name), card.counts.get(name)
    if size is not None and len(split) != size:
        raise InputError(
            f"{card.name}: {name}: {split.origin} holds {len(split)} items; the card says {size}"
        )
    if counts is not None and (held := count_labels(split.labels, len(card.classes))) != counts:
        raise InputError(
            f"{card.name}: {name}: {split.origin} holds {held} items of the classes; the card "
            f"says {counts}"
        )


def check_task(data: TaskData) -> None:
    """Refuse a task without training or test examples of each class, or with shared patients.

    Raises:
        InputError: Naming the task, the split and the problem.
    """
    if data.card.kind == "segmentation":
        _check_masks(data)
    else:
        _check_classes(data)
    _check_patients(data)


def _check_classes(data: TaskData) -> None:
    """Require training items of every class, and test items inside and outside a class."""
    classes = data.card.classes
    counts = count_labels(data.splits["train"].labels, len(classes))
    if 0 in counts:
        absent = classes[counts.index(0)]
        raise InputError(f"{data.card.name}: train: class '{absent}' has no training example")
    for name, split in data.splits.items():
        labels = split.labels
        onehot = labels[:, None] == np.arange(len(classes)) if labels.ndim == 1 else labels == 1
        outside = ~onehot if labels.ndim == 1 else labels == 0
        if not (onehot.any(axis=0) & outside.any(axis=0)).any():
            held = [
                name for name, present in zip(classes, onehot.any(axis=0), strict=True) if present
            ]
            raise InputError(
                f"{data.card.name}: {name}: {split.origin}: only one class; two are needed: all "
                f"items are {', '.join(held) or 'without any label'}"
            )


def _check_masks(data: TaskData) -> None:
    """Require training pixels of every class but the background, and two classes elsewhere."""
    classes = data.card.classes
    for name, split in data.splits.items():
        needed = len(classes) if name == "train" else 2
        present = find_classes(split.class_maps, enough=needed)
        where = f"{data.card.name}: {name}: {split.origin}"
        if len(present) == 1:
            raise InputError(
                f"{where}: only one class; two are needed: every pixel of the masks is "
                f"{classes[present.pop()]}"
            )
        if name == "train" and (absent := set(range(1, len(classes))) - present):
            raise InputError(
                f"{where}: class '{classes[min(absent)]}' has no training example: no mask holds it"
            )


def _check_patients(data: TaskData) -> None:
    """Refuse a patient in two splits."""
    seen: dict[str, str] = {}
    for name in data.card.sources:
        for patient in Counter(data.splits[name].patients or ()):
            if (other := seen.setdefault(patient, name)) != name:
                raise InputError(
                    f"{data.card.name}: patient {patient} is in {other} and in {name}; every "
                    "patient belongs to one split"
                )
