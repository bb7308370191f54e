"""Metrics, intervals and replicates of draw 0, computed again from the kept predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.data.split import Split
from medtransfer.metrics import Evaluation, evaluate
from medtransfer.specs.protocol import Protocol
from medtransfer.verification.arrays import Archives, Wanted, list_predictions, list_replicates
from medtransfer.verification.entries import Entry
from medtransfer.verification.tasks import Task

__all__ = ["check_predictions", "read_predictions", "read_replicates"]

# Metrics are computed in float64 from the very numbers that are kept, so that only the order of
# sums may differ between versions and processors: 1e-13 for sums of 10,000 items, times a margin.
_EXACT = 1e-9
# Replicates are kept as float32, which moves one below 1 by 2^-25 at most; where the 1e-13 above
# falls on the border of two such numbers it moves by a whole step, 2^-24 = 6e-8.
_STORED = 1e-7
_SHOWN = 2  # of a split whose predictions give other numbers, all of which would be

Arrays = dict[str, NDArray[Any]]


def read_replicates(entry: Entry, archives: Archives, protocol: Protocol) -> Arrays:
    """The replicates (B,) of each family of test splits, after a look at their hash.

    Raises:
        InputError: When they are missing, damaged or not those of the record.
    """
    wanted = list_replicates(entry.record)
    reference = entry.record.replicates
    assert wanted is not None and reference is not None
    arrays: Arrays = {
        split: archives.read(wanted.file, name, dtype="<f4", shape=(protocol.bootstrap,))
        for split, name in zip(wanted.splits, wanted.names, strict=True)
    }
    _check_hash(entry, "replicates", wanted, arrays, reference.sha256)
    return arrays


def read_predictions(entry: Entry, archives: Archives, task: Task) -> Arrays:
    """The predictions of each test split, after a look at their hash.

    Raises:
        InputError: When they are missing, damaged or not those of the record.
    """
    wanted = list_predictions(entry.record)
    reference = entry.record.predictions
    assert wanted is not None and reference is not None
    masks = task.card.kind == "segmentation"
    arrays: Arrays = {}
    for split, name in zip(wanted.splits, wanted.names, strict=True):
        known = task.data.tests[split] if task.data is not None else None
        shape: tuple[int | None, ...]
        items = len(known) if known is not None else _count_items(entry, split)
        if masks:
            truth = known.masks if known is not None else None
            shape = (items, None, None) if truth is None else truth.shape
        else:
            shape = items, len(task.card.classes)
        dtype = "|u1" if masks else "<f4"
        arrays[split] = archives.read(wanted.file, name, dtype=dtype, shape=shape)
    _check_hash(entry, "predictions", wanted, arrays, reference.sha256)
    return arrays


def _count_items(entry: Entry, split: str) -> int:
    """How many items a split has by the record, where its data are not at hand."""
    return int(entry.record.metrics[split]["n"] or 0)


def _check_hash(
    entry: Entry, field: str, wanted: Wanted, arrays: Arrays, right: str | None
) -> None:
    hasher = hashlib.sha256()
    for array in arrays.values():
        hasher.update(array.tobytes())
    if hasher.hexdigest() != right:
        raise InputError(
            entry.fault(
                f"{field}.sha256", f"is not that of {wanted.key} in {wanted.file}: one was changed"
            )
        )


def check_predictions(
    entry: Entry, task: Task, protocol: Protocol, *, predictions: Arrays, replicates: Arrays
) -> Iterator[str]:
    """Compute a record's numbers again from its predictions.

    Args:
        entry: The record.
        task: Its task, with data.
        protocol: The protocol.
        predictions: Probabilities (N, C) or class ids (N, H, W) of each test split.
        replicates: Stored bootstrap replicates (B,) of each test split.
    """
    assert task.data is not None
    for name, array in predictions.items():
        split = task.data.tests[name]
        field = f"predictions.{name}"
        if task.card.kind != "segmentation" and not ((array >= 0) & (array <= 1)).all():
            yield entry.fault(field, "a probability is not between 0 and 1")
            continue
        try:
            again = _evaluate(task, split, array, task.weights(name, split, protocol.bootstrap))
        except ValueError as error:
            yield entry.fault(field, str(error))
            continue
        found = [
            *_compare(entry, name, again, classes=task.card.classes),
            *_compare_replicates(entry, name, again, replicates[name]),
        ]
        yield from found[:_SHOWN]
        if len(found) > _SHOWN:
            yield entry.fault(field, f"{len(found) - _SHOWN} more numbers are not theirs")


def _compare_replicates(
    entry: Entry, split: str, again: Evaluation, stored: NDArray[np.float32]
) -> Iterator[str]:
    right = again.replicates[entry.record.task.metric]
    same = np.isclose(stored, right, rtol=0, atol=_STORED, equal_nan=True)
    if not same.all():
        first = int(same.argmin())
        yield entry.fault(
            f"replicates.{split}",
            f"{stored[first]:.9g} at {first}; the stored predictions give {right[first]:.9g}",
        )


def _evaluate(
    task: Task, split: Split, predictions: NDArray[Any], weights: NDArray[np.float64]
) -> Evaluation:
    if task.card.kind == "segmentation":
        assert split.masks is not None
        classes = len(task.card.classes)
        return evaluate(predictions, split.masks, weights, kind="segmentation", classes=classes)
    return evaluate(predictions.astype(np.float64), split.labels, weights, kind=task.card.kind)


def _compare(entry: Entry, split: str, again: Evaluation, *, classes: list[str]) -> Iterator[str]:
    """A record's metrics and intervals of a split with those that were computed again."""
    source = "the stored predictions give"
    values: dict[str, float | None] = {**again.values, "classes_scored": again.classes_scored}
    for metric, numbers in again.per_class.items():
        for label, number in zip(classes[1:], numbers, strict=True):
            values[f"{metric}/{label}"] = number
    recorded = entry.record.metrics[split]
    for name, right in values.items():
        yield from entry.expect_close(
            f"metrics.{split}.{name}", recorded[name], right, within=_EXACT, source=source
        )
    for name, pair in again.intervals.items():
        found, field = entry.record.intervals[split][name], f"intervals.{split}.{name}"
        if found is None or pair is None:
            yield from entry.expect(field, found, pair, source=source)
            continue
        for number, end in enumerate(("lower", "upper")):
            yield from entry.expect_close(
                f"{field}, {end} end", found[number], pair[number], within=_EXACT, source=source
            )
