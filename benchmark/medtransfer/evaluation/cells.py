"""Plan the cells of an evaluation. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medtransfer.core.errors import InputError, suggest
from medtransfer.data.draws import feasible, groups
from medtransfer.specs.protocol import ADAPTATIONS, BUDGETS, Protocol, shots
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Kind, TaskCard

# Reasons why an encoder cannot be adapted, by kind of task and adaptation.
Limits = Mapping[tuple[Kind, str], str]


def check_choices(
    protocol: Protocol, *, budgets: Iterable[str], adaptations: Iterable[str]
) -> None:
    """Refuse budgets and adaptations that the protocol does not have.

    Raises:
        InputError: With the closest one that it has.
    """
    pairs = protocol.fingerprints
    offered = sorted({budget for kind, name in pairs for budget in protocol.budgets(name, kind)})
    for option, given, known, every in (
        ("budget", budgets, offered, BUDGETS),
        ("adaptation", adaptations, sorted({name for _, name in pairs}), ADAPTATIONS),
    ):
        for value in given:
            if value not in known:
                # A valid name that this protocol lacks is no misspelling: list what it has.
                hint = f"; it has: {', '.join(known)}" if value in every else suggest(value, known)
                raise InputError(
                    f"--{option}: protocol {protocol.name} has no {option} '{value}'{hint}"
                )


@dataclass(frozen=True)
class Plan:
    """The cells of an evaluation.

    Attributes:
        cells: In the order in which they run: quick ones of a task first.
        not_applicable: Those whose budget does not apply to their task, and why.
        notes: What the encoder cannot do, one line a reason.
    """

    cells: tuple[Cell, ...]
    not_applicable: Mapping[Cell, str]
    notes: tuple[str, ...] = ()


def choose_runs(
    kind: Kind, protocol: Protocol, *, budgets: Iterable[str], adaptations: Iterable[str]
) -> list[tuple[str, str, int]]:
    """List adaptation, budget and number of draws of what is asked for of a kind of task.

    Optional adaptations are run only when they are named.

    Args:
        kind: Kind of task.
        protocol: The protocol.
        budgets: Only these; empty is all.
        adaptations: Only these; empty is all that are ranked.
    """
    ranked = protocol.adaptations(kind)
    wanted, wanted_budgets = set(adaptations) or ranked, set(budgets)
    return [
        (adaptation, budget, draws)
        for adaptation in (*ranked, *protocol.optional(kind))
        if adaptation in wanted
        for budget, draws in protocol.budgets(adaptation, kind).items()
        if not wanted_budgets or budget in wanted_budgets
    ]


def plan_cells(
    tasks: Mapping[str, TaskCard],
    protocol: Protocol,
    *,
    budgets: Iterable[str] = (),
    adaptations: Iterable[str] = (),
    items: Mapping[str, int] | None = None,
    limits: Limits | None = None,
) -> Plan:
    """Plan an evaluation: every filter is applied here, and nowhere else.

    Args:
        tasks: The tasks by name.
        protocol: The protocol.
        budgets: Only these; empty is all.
        adaptations: Only these; empty is all that are ranked.
        items: Training items of each task; without them every budget is taken to apply.
        limits: What the encoder cannot do; without them it is taken to do everything.

    Raises:
        InputError: When these leave no cell.
    """
    limits, wanted = limits or {}, {"budgets": tuple(budgets), "adaptations": tuple(adaptations)}
    cells: list[Cell] = []
    not_applicable: dict[Cell, str] = {}
    skipped: dict[str, dict[str, None]] = {}
    for task, card in tasks.items():
        runs = choose_runs(card.kind, protocol, **wanted)
        impossible = {name: limits.get((card.kind, name)) for name, _, _ in runs}
        for adaptation, reason in impossible.items():
            if reason is not None:
                left = any(other is None for other in impossible.values())
                skipped.setdefault(reason, {})[f"{adaptation} of {task}" if left else task] = None
        for adaptation, budget, draws in runs:
            if impossible[adaptation] is not None:
                continue
            added = [Cell(task, budget, adaptation, draw) for draw in range(draws)]
            cells += added
            if items and (reason := find_obstacle(card, budget, items[task], protocol)):
                not_applicable |= dict.fromkeys(added, reason)
    if skipped and not cells:
        raise InputError(next(iter(skipped)))
    notes = (f"skipped {', '.join(names)}: {reason}" for reason, names in skipped.items())
    return Plan(tuple(cells), not_applicable, tuple(notes))


def find_obstacle(card: TaskCard, budget: str, items: int, protocol: Protocol) -> str | None:
    """Say why a budget does not apply to a task, or return ``None`` when it does.

    The same for every encoder, so that a cell left out is left out for all.

    Args:
        card: The task.
        budget: The budget.
        items: Number of training items.
        protocol: The protocol.
    """
    taken, share = groups(card.kind, len(card.classes)), protocol.infeasible_share
    if feasible(items=items, groups=taken, shots=shots(budget), share=share):
        return None
    names = {"multiclass": "classes", "multilabel": "groups (labels, and none)"}
    of = f" of {taken} {names[card.kind]}" if card.kind in names else ""
    return f"{budget}{of} would use {share:.0%} or more of the {items} training items"
