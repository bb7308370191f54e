"""Text of a finished cell."""

from __future__ import annotations

from medtransfer.specs.record import Record
from medtransfer.specs.split_name import SplitName


def summarise(record: Record) -> str:
    """Describe a record in one line: its cell, and its metric by test split or its error."""
    if record.status != "ok":
        return f"{record.cell}: {record.status.replace('_', ' ')}: {record.error}"
    families: dict[str, list[float | None]] = {}
    for split, metrics in record.metrics.items():
        families.setdefault(SplitName.parse(split).family, []).append(metrics[record.task.metric])
    means = []
    for name, values in families.items():
        defined = [value for value in values if value is not None]
        undefined = len(defined) < len(values)
        means.append(f"{name} {'undefined' if undefined else f'{sum(defined) / len(defined):.3f}'}")
    seconds = f", {record.cost.seconds:.1f} s" if record.cost else ""
    return f"{record.cell}: {record.task.metric} {', '.join(means)}{seconds}"
