"""Metrics, intervals and replicates of draw 0, computed again from the stored predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.data.split import Split
from medtransfer.evaluation.measures import draw_weights, evaluate_split
from medtransfer.metrics import Evaluation
from medtransfer.specs.record import ArrayRef
from medtransfer.verification.arrays import Archives, Wanted, list_predictions, list_replicates
from medtransfer.verification.entries import ResolvedEntry

# Metrics are computed in float64 from the very numbers that are kept, so that only the order of
# sums may differ between versions and processors: 1e-13 for sums of 10,000 items, times a margin.
_EXACT = 1e-9
# Replicates are kept as float32, which moves one below 1 by 2^-25 at most; where the 1e-13 above
# falls on the border of two such numbers it moves by a whole step, 2^-24 = 6e-8.
_STORED = 1e-7
_SHOWN = 2  # problems shown of a split; wrong predictions change all its numbers

Arrays = dict[str, NDArray[Any]]


def read_replicates(entry: ResolvedEntry, archives: Archives) -> Arrays:
    """Read the replicates (B,) of each family of test splits, and check their hash.

    Raises:
        InputError: When they are missing, damaged or not those of the record.
    """
    wanted = list_replicates(entry.record)
    if wanted is None:
        return {}
    arrays: Arrays = {
        split: archives.read(wanted.file, name, dtype="<f4", shape=(entry.protocol.bootstrap,))
        for split, name in zip(wanted.splits, wanted.names, strict=True)
    }
    _check_hash(entry, "replicates", wanted, arrays, entry.record.replicates)
    return arrays


def read_predictions(entry: ResolvedEntry, archives: Archives) -> Arrays:
    """Read the predictions of each test split, and check their hash.

    Raises:
        InputError: When they are missing, damaged or not those of the record.
    """
    wanted = list_predictions(entry.record)
    if wanted is None:
        return {}
    masks = entry.task.card.kind == "segmentation"
    arrays: Arrays = {
        split: archives.read(
            wanted.file, name, dtype="|u1" if masks else "<f4", shape=_find_shape(entry, split)
        )
        for split, name in zip(wanted.splits, wanted.names, strict=True)
    }
    _check_hash(entry, "predictions", wanted, arrays, entry.record.predictions)
    return arrays


def _find_shape(entry: ResolvedEntry, split: str) -> tuple[int | None, ...]:
    """Shape of a split's predictions: of the data, or of the record where data are absent."""
    task = entry.task
    test = task.data.tests[split] if task.data is not None else None
    if test is not None and test.masks is not None:
        return test.masks.shape
    items = int(entry.record.metrics[split]["n"] or 0) if test is None else len(test)
    if task.card.kind == "segmentation":
        return items, None, None
    return items, len(task.card.classes)


def _check_hash(
    entry: ResolvedEntry, field: str, wanted: Wanted, arrays: Arrays, reference: ArrayRef | None
) -> None:
    hasher = hashlib.sha256()
    for array in arrays.values():
        hasher.update(array.tobytes())
    if reference is None or hasher.hexdigest() != reference.sha256:
        raise InputError(
            entry.fault(
                f"{field}.sha256",
                f"is not the hash of {wanted.key} in {wanted.file}; one was changed",
            )
        )


def check_predictions(
    entry: ResolvedEntry, tests: Mapping[str, Split], *, predictions: Arrays, replicates: Arrays
) -> Iterator[str]:
    """Compute a record's numbers again from its predictions.

    Args:
        entry: The record.
        tests: Test splits of its task.
        predictions: Probabilities (N, C) or class ids (N, H, W) of each test split.
        replicates: Stored bootstrap replicates (B,) of each test split.
    """
    card = entry.task.card
    for name, array in predictions.items():
        split = tests[name]
        field = f"predictions.{name}"
        if card.kind != "segmentation" and not ((array >= 0) & (array <= 1)).all():
            yield entry.fault(field, "a probability is not between 0 and 1")
            continue
        try:
            weights = draw_weights(card.name, name, split, entry.protocol.bootstrap)
            again = evaluate_split(card, split, array, weights)
        except ValueError as error:
            yield entry.fault(field, str(error))
            continue
        problems = list(_compare(entry, name, again, replicates[name]))
        yield from problems[:_SHOWN]
        if len(problems) > _SHOWN:
            yield entry.fault(
                field, f"{len(problems) - _SHOWN} more numbers differ from the predictions"
            )


def _compare(
    entry: ResolvedEntry, split: str, again: Evaluation, stored: NDArray[np.float32]
) -> Iterator[str]:
    """Compare a split's metrics, intervals and replicates with those computed again."""
    source = "the stored predictions give"
    recorded, intervals = entry.record.metrics[split], entry.record.intervals[split]
    for name, value in again.flatten(entry.task.card.classes).items():
        yield from entry.expect_close(
            f"metrics.{split}.{name}", recorded[name], value, within=_EXACT, source=source
        )
    for name, pair in again.intervals.items():
        yield from entry.expect_close(
            f"intervals.{split}.{name}", intervals[name], pair, within=_EXACT, source=source
        )
    expected = again.replicates[entry.record.task.metric]
    same = np.isclose(stored, expected, rtol=0, atol=_STORED, equal_nan=True)
    if not same.all():
        first = int(same.argmin())
        yield entry.fault(
            f"replicates.{split}",
            f"{stored[first]:.9g} at {first}; {source} {expected[first]:.9g}",
        )
