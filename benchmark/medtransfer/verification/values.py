"""Numbers of a record: consistent with the data, the protocol and the replicates.

The ranges of the numbers are those of `specs.record`, which refuses others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from medtransfer.metrics import METRICS, interval
from medtransfer.specs.record import largest_value
from medtransfer.specs.split_name import SplitName
from medtransfer.verification.entries import ResolvedEntry

# Replicates are kept as float32, which moves those up to 1 by 2^-25 = 3e-8 at most, and so a
# percentile, which lies between two of them.
_STORED = 1e-7
# How far a metric may be from the mean of its replicates, in their standard deviations: of 1,176
# in the shipped submissions the farthest is 0.28 away. The mean of 200 has an error of 0.07.
_FARTHEST = 1.0

Arrays = Mapping[str, NDArray[np.float32]]


def check_metrics(entry: ResolvedEntry) -> Iterator[str]:
    """Compare the names of metrics and intervals, and the counts, with the card and the data."""
    record, card = entry.record, entry.task.card
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
    expected = {name: names if name in clean else primary for name in families}
    recorded = {name: set(values) for name, values in record.intervals.items()}
    yield from entry.expect("intervals", _sort(recorded), _sort(expected), source="expected are")
    if card.kind == "segmentation":
        names |= {f"{name}/{label}" for name in METRICS[card.kind] for label in card.classes[1:]}
    names |= {"classes_scored", "n"}
    for split, values in record.metrics.items():
        yield from entry.expect(
            f"metrics.{split}", sorted(values), sorted(names), source=f"those of {card.kind} are"
        )
        if split in card.test_splits:
            yield from _check_truth(entry, split)
    for split, intervals in record.intervals.items():
        for name, pair in intervals.items():
            if pair is not None and record.metrics.get(split, {name: 0.0}).get(name) is None:
                yield entry.fault(f"intervals.{split}.{name}", "present, but the metric is null")
    if entry.draw is not None:
        yield from entry.expect(
            "counts", record.counts, entry.draw.counts, source=f"draw {record.draw} of the data has"
        )


def _sort(groups: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(groups[name]) for name in sorted(groups)}


def _check_truth(entry: ResolvedEntry, split: str) -> Iterator[str]:
    """Check the values that depend on the labels alone."""
    task = entry.task
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
            text = "null; the labels define it"
            if value is None:
                text = f"{values[name]:g}; the labels do not define it, so null is expected"
            yield entry.fault(f"{field}.{name}", text)
    accuracy = values.get("accuracy")
    if task.card.kind == "multiclass" and accuracy is not None:
        correct = accuracy * size
        if abs(correct - round(correct)) > 1e-6 * size:
            yield entry.fault(
                f"{field}.accuracy", f"{accuracy:g}; that is {correct:g} of {size} items"
            )


def check_replicates(entry: ResolvedEntry, arrays: Arrays) -> Iterator[str]:
    """Compare the primary metric and its interval with the stored replicates.

    Args:
        entry: The record, whose metrics are complete.
        arrays: Replicates (B,) of each test split; of graded corruptions, of their mean.
    """
    record = entry.record
    primary = record.task.metric
    highest = largest_value(record.task.kind, primary)
    for family, array in arrays.items():
        field = f"replicates.{family}"
        values = array.astype(np.float64)
        defined = values[~np.isnan(values)]
        if not ((defined >= -_STORED) & (defined <= highest + _STORED)).all():
            yield entry.fault(field, f"a value of {primary} is beyond 0 to {highest:g}")
            continue
        points = [
            values[primary]
            for name, values in record.metrics.items()
            if SplitName.parse(name).family == family
        ]
        numbers = [point for point in points if point is not None]
        undefined = family in record.metrics and not numbers
        yield from entry.expect_close(
            f"intervals.{family}.{primary}",
            record.intervals[family][primary],
            None if undefined else interval(values),
            within=_STORED,
            source="the percentiles of the stored replicates are",
        )
        if len(numbers) == len(points) and defined.size:
            point, mean = float(np.mean(numbers)), float(defined.mean())
            if abs(point - mean) > _FARTHEST * float(defined.std()) + _STORED:
                yield entry.fault(
                    f"metrics.{family}.{primary}",
                    f"{point:g}; the stored replicates are about {mean:g} +- "
                    f"{defined.std():.2g}, so they belong to another value",
                )
