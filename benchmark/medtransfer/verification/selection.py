"""Selected hyperparameters: among those that the protocol offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from medtransfer.specs.protocol import Linear, shots
from medtransfer.verification.entries import ResolvedEntry


def check_selected(entry: ResolvedEntry) -> Iterator[str]:
    """Compare the hyperparameters of a record with the protocol."""
    record, protocol = entry.record, entry.protocol
    if record.adaptation == "knn":
        nearest = min([protocol.knn.neighbours, *record.counts])
        yield from _check_choice(entry, "neighbours", [nearest], scored=False)
    elif record.adaptation == "linear":
        offered, scored = _list_l2(protocol.linear, record.budget)
        yield from _check_choice(entry, "l2", offered, scored=scored)
    else:
        rates = entry.training.rates
        if record.status == "diverged" and "tried" in record.selected:
            tried = {"lr": None, "tried": rates}
            yield from entry.expect("selected", record.selected, tried, source="expected is")
        else:
            yield from _check_choice(entry, "lr", rates, scored=len(rates) > 1)


def _list_l2(settings: Linear | None, budget: str) -> tuple[Sequence[float], bool]:
    """Strengths of the L2 to choose from, and whether they are scored."""
    if settings is None:
        return [], False
    count = shots(budget)
    if count is not None and count < settings.select_from_shots:
        return [settings.l2_unselected], False
    return settings.l2, True


def _check_choice(
    entry: ResolvedEntry, name: str, offered: Sequence[float], *, scored: bool
) -> Iterator[str]:
    """Check one selected value and, where there was a choice, its scores on held-out data."""
    selected = entry.record.selected
    scores = ["validation"] if scored else []
    if scored and entry.record.task.kind != "segmentation":
        scores.append("validation_log_loss")
    keys = sorted([name, *scores])
    yield from entry.expect("selected", sorted(selected), keys, source="expected are")
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
