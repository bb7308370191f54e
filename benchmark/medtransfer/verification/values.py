"""The numbers of a record: possible, and consistent with data, protocol and replicates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

import numpy as np
from numpy.typing import NDArray

from medtransfer.metrics import METRICS, interval
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import Kind
from medtransfer.verification.entries import Entry
from medtransfer.verification.tasks import Task

__all__ = ["check_metrics", "check_replicates"]

_ROUNDING = 1e-9  # what another order of a sum may do, here to a bound that is reached
# Replicates are kept as float32, which moves those up to 1 by 2^-25 = 3e-8 at most, and so a
# percentile, which lies between two of them.
_STORED = 1e-7
# How far a metric may be from the mean of its replicates, in their standard deviations: of 1,176
# in the shipped submissions the farthest is 0.28 away. The mean of 200 has an error of 0.07.
_FARTHEST = 1.0

Arrays = Mapping[str, NDArray[np.float32]]


def _bounds(kind: Kind, name: str) -> tuple[float, float]:
    """The least and largest value of a metric, or of one class's (``dice/tumour``)."""
    metric = name.partition("/")[0]
    highest = {"hd95": inf, "brier": 2.0 if kind == "multiclass" else 1.0}
    return 0.0, highest.get(metric, 1.0)


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] - _ROUNDING <= value <= bounds[1] + _ROUNDING


def check_metrics(entry: Entry, task: Task) -> Iterator[str]:
    """Metrics, intervals and counts: those of the card and the data, each possible."""
    record, card = entry.record, task.card
    yield from entry.expect(
        "metrics",
        sorted(record.metrics),
        sorted(card.test_splits),
        source="the card's test splits are",
    )
    names = set(METRICS[card.kind])
    splits = [SplitName.parse(name) for name in record.metrics]
    clean = {split.family for split in splits if not split.corrupted}
    families = {split.family for split in splits}
    primary: set[str] = {card.metric}
    right = {name: names if name in clean else primary for name in families}
    found = {name: set(values) for name, values in record.intervals.items()}
    yield from entry.expect("intervals", _sort(found), _sort(right), source="expected are")
    if card.kind == "segmentation":
        names |= {f"{name}/{label}" for name in METRICS[card.kind] for label in card.classes[1:]}
    names |= {"classes_scored", "n"}
    for split, values in record.metrics.items():
        yield from entry.expect(
            f"metrics.{split}", sorted(values), sorted(names), source=f"those of {card.kind} are"
        )
        for name, value in values.items():
            low, high = _bounds(card.kind, name)
            counted = name in ("classes_scored", "n")
            if value is not None and not counted and not _within(value, (low, high)):
                yield entry.fault(
                    f"metrics.{split}.{name}", f"{value:g}; {low:g} to {high:g} is possible"
                )
        if split in card.test_splits:
            yield from _check_truth(entry, task, split)
    yield from _check_intervals(entry, card.kind)
    if (draw := task.draw(record.budget, record.draw)) is not None:
        yield from entry.expect(
            "counts", record.counts, draw.counts, source=f"draw {record.draw} of the data has"
        )


def _sort(groups: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(groups[name]) for name in sorted(groups)}


def _check_truth(entry: Entry, task: Task, split: str) -> Iterator[str]:
    """What follows from the labels alone, whatever was predicted."""
    if task.data is None:
        return
    values, field = entry.record.metrics[split], f"metrics.{split}"
    size = len(task.data.tests[split])
    yield from entry.expect(f"{field}.n", values.get("n"), size, source="the split has")
    truth = task.truth(split)
    if truth is None:
        return
    scored = truth.classes_scored
    yield from entry.expect(
        f"{field}.classes_scored", values.get("classes_scored"), scored, source="the labels give"
    )
    for name, value in truth.values.items():
        if scored and name in values and (values[name] is None) != (value is None):
            what = "undefined there: null" if value is None else "defined there: a number"
            yield entry.fault(f"{field}.{name}", f"{values[name]}; by the labels it is {what}")
    accuracy = values.get("accuracy")
    if task.card.kind == "multiclass" and accuracy is not None:
        right = accuracy * size
        if abs(right - round(right)) > 1e-6 * size:
            yield entry.fault(
                f"{field}.accuracy", f"{accuracy:g}; that is {right:g} of {size} items"
            )


def _check_intervals(entry: Entry, kind: Kind) -> Iterator[str]:
    for split, intervals in entry.record.intervals.items():
        for name, pair in intervals.items():
            field, bounds = f"intervals.{split}.{name}", _bounds(kind, name)
            if pair is None:
                continue
            if not (pair[0] <= pair[1] and all(_within(end, bounds) for end in pair)):
                yield entry.fault(
                    field,
                    f"[{pair[0]:g}, {pair[1]:g}]; two ascending numbers from {bounds[0]:g} to "
                    f"{bounds[1]:g} are expected",
                )
            if entry.record.metrics.get(split, {name: 0.0}).get(name) is None:
                yield entry.fault(field, "is there, but the metric is null")


def check_replicates(entry: Entry, arrays: Arrays) -> Iterator[str]:
    """The primary metric and its interval belong to the stored replicates.

    Args:
        entry: The record, whose metrics are complete.
        arrays: Replicates (B,) of each test split; of graded corruptions, of their mean.
    """
    record = entry.record
    primary = record.task.metric
    bounds = _bounds(record.task.kind, primary)
    for family, array in arrays.items():
        field = f"replicates.{family}"
        values = array.astype(np.float64)
        defined = values[~np.isnan(values)]
        if not all(_within(value, (bounds[0] - _STORED, bounds[1] + _STORED)) for value in defined):
            yield entry.fault(
                field, f"a value of {primary} is beyond {bounds[0]:g} to {bounds[1]:g}"
            )
            continue
        points = [
            values[primary]
            for name, values in record.metrics.items()
            if SplitName.parse(name).family == family
        ]
        numbers = [point for point in points if point is not None]
        undefined = family in record.metrics and not numbers
        right = None if undefined else interval(values)
        yield from _compare_intervals(
            entry,
            f"intervals.{family}.{primary}",
            record.intervals[family][primary],
            right,
        )
        if len(numbers) == len(points) and defined.size:
            point, mean = float(np.mean(numbers)), float(defined.mean())
            if abs(point - mean) > _FARTHEST * float(defined.std()) + _STORED:
                yield entry.fault(
                    f"metrics.{family}.{primary}",
                    f"{point:g}; its bootstrap replicates are about {mean:g} +- "
                    f"{defined.std():.2g}, so they are not of this value",
                )


def _compare_intervals(
    entry: Entry, field: str, found: tuple[float, float] | None, right: tuple[float, float] | None
) -> Iterator[str]:
    source = "the percentiles of the stored replicates are"
    if found is None or right is None:
        yield from entry.expect(field, found, right, source=source)
        return
    for number, end in enumerate(("lower", "upper")):
        yield from entry.expect_close(
            f"{field}, {end} end", found[number], right[number], within=_STORED, source=source
        )
