"""Check that costs are possible, and equal for cells that cost the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from medtransfer.specs.protocol import PROBES
from medtransfer.verification.entries import ResolvedEntry


def check_cost(entry: ResolvedEntry) -> Iterator[str]:
    """Compare the images of a record's cost with those that the protocol trains on."""
    record, draw, cost = entry.record, entry.draw, entry.record.cost
    if draw is None or cost is None:
        return
    if record.adaptation in PROBES:
        yield from entry.expect(
            "cost.images_seen", cost.images_seen, draw.items, source="the draw has"
        )
        return
    training = entry.training
    most, _ = training.count_images(draw.items, held_out=draw.held_out, validation=0)
    batch = training.run.batch
    # A run that diverges ends early; the run that gave the result was complete.
    least = training.run.length(draw.items) * batch if record.status == "ok" else 0
    if not least <= cost.images_seen <= most or cost.images_seen % batch:
        yield entry.fault(
            "cost.images_seen",
            f"{cost.images_seen}; {least} to {most} images in steps of {batch} are possible",
        )


def check_alike(entries: Iterable[ResolvedEntry]) -> Iterator[str]:
    """Compare counts between cells that cost the same, and weights between all."""
    groups: dict[tuple[str, Hashable], list[tuple[ResolvedEntry, Any]]] = {}

    def add(name: str, key: Hashable, entry: ResolvedEntry, value: Any) -> None:
        groups.setdefault((name, key), []).append((entry, value))

    for entry in entries:
        record, cost, task, draw = entry.record, entry.record.cost, entry.task, entry.draw
        if cost is None:
            continue
        alike = record.protocol.name, record.adaptation, record.task.kind, len(task.card.classes)
        for name in ("inference_flops_per_image", "parameters", "trainable_parameters"):
            add(f"cost.{name}", alike, entry, getattr(cost, name))
        for name in ("weights", "input_size"):
            add(f"environment.{name}", record.protocol.name, entry, record.environment.get(name))
        if task.data is None or draw is None:
            continue
        yield from entry.expect(
            "environment.native_size",
            record.environment.get("native_size"),
            list(task.data.splits["train"].images.shape[1:3]),
            source="the images have",
        )
        reuses = record.cell.reused_rate(entry.first) is not None
        same = *alike, record.task.name, record.budget, draw.items, draw.strata, reuses
        add("cost.adaptation_flops", same, entry, cost.adaptation_flops)
        if record.adaptation == "knn":
            # A neighbour search has no training: its FLOPs are those of the shots' features.
            each = cost.adaptation_flops / draw.items
            add("cost.adaptation_flops by training image", record.protocol.name, entry, each)
    for (name, _), members in groups.items():
        yield from _find_odd(name, members)


def _find_odd(name: str, members: list[tuple[ResolvedEntry, Any]]) -> Iterator[str]:
    """Report cells whose value differs from that of most similar cells."""
    counts = Counter(str(value) for _, value in members)
    usual = counts.most_common(1)[0][0]
    sample = next(entry for entry, value in members if str(value) == usual)
    for entry, value in members:
        if str(value) != usual:
            yield entry.fault(
                name,
                f"{value}; similar cells, such as {sample.record.cell} in line {sample.line}, "
                f"have {usual}",
            )
