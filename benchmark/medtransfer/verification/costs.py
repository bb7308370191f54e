"""The costs of the records: possible, and the same for cells that cost the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import PROBES, Protocol
from medtransfer.specs.record import Cell
from medtransfer.verification.entries import Entry
from medtransfer.verification.selection import list_rates
from medtransfer.verification.tasks import Task

__all__ = ["check_alike", "check_cost"]

_COUNTS = (
    "adaptation_flops",
    "inference_flops_per_image",
    "parameters",
    "trainable_parameters",
    "images_seen",
)


def check_cost(
    entry: Entry,
    task: Task,
    *,
    card: EncoderCard,
    protocol: Protocol,
    first: Mapping[str, Any] | None,
) -> Iterator[str]:
    """Compare a record's cost with what can be known without building the encoder.

    Args:
        entry: The record, which has a cost.
        task: Its task.
        card: The encoder's.
        protocol: The protocol.
        first: What draw 0 of the same cell selected, where it is recorded.
    """
    record = entry.record
    cost = record.cost
    assert cost is not None
    for name in (*_COUNTS, "seconds", "peak_memory_bytes", "energy_joules"):
        value = getattr(cost, name)
        if value is not None and value < 0:
            yield entry.fault(f"cost.{name}", f"{value:g}; it cannot be negative")
    if cost.trainable_parameters > cost.parameters:
        yield entry.fault(
            "cost.trainable_parameters",
            f"{cost.trainable_parameters}; there are {cost.parameters} parameters in all",
        )
    if (draw := task.draw(record.budget, record.draw)) is None:
        return
    if record.adaptation in PROBES:
        yield from entry.expect(
            "cost.images_seen", cost.images_seen, draw.items, source="the draw has"
        )
        return
    settings = protocol.training(record.adaptation, task.card.kind)
    assert settings is not None
    run = settings.budgets[record.budget]  # type: ignore[index]
    once = run.length(draw.items) * run.batch
    rates = len(list_rates(entry, card, protocol, first))
    # Few-shot the best rate is trained again; a run that goes to NaN ends early.
    most = once * (rates + (rates > 1 and record.budget != "full"))
    least = once if record.status == "ok" else 0
    if not least <= cost.images_seen <= most or cost.images_seen % run.batch:
        yield entry.fault(
            "cost.images_seen",
            f"{cost.images_seen}; steps of {run.batch} images, {least} to {most} in all, are "
            "possible",
        )


def check_alike(
    entries: Iterable[Entry],
    tasks: Mapping[str, Task],
    firsts: Mapping[Cell, Mapping[str, Any]],
) -> Iterator[str]:
    """Counts that differ between cells which cost the same, and weights that are not one.

    Args:
        entries: Records with a cost.
        tasks: Their tasks by name.
        firsts: What each cell of draw 0 selected.
    """
    groups: dict[tuple[str, Hashable], list[tuple[Entry, Any]]] = {}

    def add(name: str, key: Hashable, entry: Entry, value: Any) -> None:
        groups.setdefault((name, key), []).append((entry, value))

    for entry in entries:
        record, cost = entry.record, entry.record.cost
        assert cost is not None
        task = tasks[record.task.name]
        alike = record.protocol.name, record.adaptation, record.task.kind, len(task.card.classes)
        for name in ("inference_flops_per_image", "parameters", "trainable_parameters"):
            add(f"cost.{name}", alike, entry, getattr(cost, name))
        for name in ("weights", "input_size"):
            add(f"environment.{name}", record.protocol.name, entry, record.environment.get(name))
        draw = task.draw(record.budget, record.draw)
        if draw is None:
            continue
        shape = list(task.data.splits["train"].images.shape[1:3]) if task.data else None
        yield from entry.expect(
            "environment.native_size",
            record.environment.get("native_size"),
            shape,
            source="the images have",
        )
        # At the full budget later draws train once, with the learning rate of draw 0.
        reuses = record.draw > 0 and bool(firsts.get(record.cell._replace(draw=0), {}).get("lr"))
        same = *alike, record.task.name, record.budget, draw.items, draw.strata, reuses
        add("cost.adaptation_flops", same, entry, cost.adaptation_flops)
        if record.adaptation == "knn":
            # A neighbour search has no training: its FLOPs are those of the shots' features.
            each = cost.adaptation_flops / draw.items
            add("cost.adaptation_flops by training image", record.protocol.name, entry, each)
    for (name, _), members in groups.items():
        yield from _find_odd(name, members)


def _find_odd(name: str, members: list[tuple[Entry, Any]]) -> Iterator[str]:
    """The cells whose value is not that of most that are alike."""
    counts = Counter(str(value) for _, value in members)
    usual = counts.most_common(1)[0][0]
    sample = next(entry for entry, value in members if str(value) == usual)
    for entry, value in members:
        if str(value) != usual:
            yield entry.fault(
                name,
                f"{value}; cells like it, such as {sample.record.cell} in line {sample.line}, "
                f"have {usual}",
            )
