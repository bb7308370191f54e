"""What a cell selected: among that which the protocol lets it choose from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol, shots
from medtransfer.verification.entries import Entry

__all__ = ["check_selected", "list_rates"]


def check_selected(
    entry: Entry, card: EncoderCard, protocol: Protocol, first: Mapping[str, Any] | None
) -> Iterator[str]:
    """Compare the hyperparameters of a record with the protocol.

    Args:
        entry: The record.
        card: The encoder's.
        protocol: The protocol.
        first: What draw 0 of the same cell selected, where it is recorded.
    """
    record = entry.record
    if record.adaptation == "knn":
        nearest = min([protocol.knn.neighbours, *record.counts])
        yield from _check_choice(entry, "neighbours", [nearest], scored=False)
    elif record.adaptation == "linear":
        settings = protocol.linear
        assert settings is not None
        count = shots(record.budget)
        few = count is not None and count < settings.select_from_shots
        offered = [settings.l2_unselected] if few else settings.l2
        yield from _check_choice(entry, "l2", offered, scored=not few)
    else:
        rates = list_rates(entry, card, protocol, first)
        if record.status == "diverged" and "tried" in record.selected:
            tried = {"lr": None, "tried": rates}
            yield from entry.expect("selected", record.selected, tried, source="expected is")
        else:
            yield from _check_choice(entry, "lr", rates, scored=len(rates) > 1)


def list_rates(
    entry: Entry, card: EncoderCard, protocol: Protocol, first: Mapping[str, Any] | None
) -> list[float]:
    """The learning rates that a cell tries: at the full budget later draws reuse the first's."""
    record = entry.record
    reused = first.get("lr") if first else None
    if record.draw > 0 and record.budget == "full" and isinstance(reused, float):
        return [reused]
    settings = protocol.training(record.adaptation, record.task.kind)
    assert settings is not None
    random = card.pretraining.objective == "none"
    return settings.learning_rates + (settings.learning_rates_random if random else [])


def _check_choice(
    entry: Entry, name: str, offered: Sequence[float], *, scored: bool
) -> Iterator[str]:
    """One chosen value and, where there was a choice, how it scored on held-out training data."""
    selected = entry.record.selected
    scores = ["validation"] if scored else []
    if scored and entry.record.task.kind != "segmentation":
        scores.append("validation_log_loss")
    keys = [name, *scores]
    yield from entry.expect("selected", sorted(selected), sorted(keys), source="expected are")
    if name in selected and selected[name] not in offered:
        choice = ", ".join(f"{value:g}" for value in offered)
        yield entry.fault(f"selected.{name}", f"{selected[name]!r}; the protocol offers {choice}")
    for score in scores:
        value = selected.get(score)
        highest = 1.0 if score == "validation" else float("inf")
        # An AUROC that is undefined on the validation items is null.
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= highest):
            yield entry.fault(
                f"selected.{score}", f"{value!r}; a number from 0 to {highest:g} is expected"
            )
