"""The plan: which cells an evaluation consists of, decided from cards and protocol alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medtransfer.core.errors import InputError, suggest
from medtransfer.data.draws import feasible, groups
from medtransfer.data.split import TaskData
from medtransfer.specs.protocol import ADAPTATIONS, BUDGETS, Protocol, shots
from medtransfer.specs.record import Cell
from medtransfer.specs.task import TaskCard

__all__ = ["check_choices", "infeasible", "plan_cells"]


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
                # A real one that this protocol lacks is no misspelling of those that it has.
                hint = f"; it has: {', '.join(known)}" if value in every else suggest(value, known)
                raise InputError(
                    f"--{option}: protocol {protocol.name} has no {option} '{value}'{hint}"
                )


def plan_cells(
    tasks: Mapping[str, TaskCard],
    protocol: Protocol,
    *,
    budgets: Iterable[str] = (),
    adaptations: Iterable[str] = (),
) -> list[Cell]:
    """All cells in the order in which they run: quick ones of a task first.

    Optional adaptations are run only when they are named.

    Args:
        tasks: The tasks by name.
        protocol: The protocol.
        budgets: Only these; empty is all.
        adaptations: Only these; empty is all that are ranked.
    """
    wanted_budgets, wanted = set(budgets), set(adaptations)
    return [
        Cell(task, budget, adaptation, draw)
        for task, card in tasks.items()
        for adaptation in (*protocol.adaptations(card.kind), *protocol.optional(card.kind))
        if adaptation in (wanted or protocol.adaptations(card.kind))
        for budget, draws in protocol.budgets(adaptation, card.kind).items()
        if not wanted_budgets or budget in wanted_budgets
        for draw in range(draws)
    ]


def infeasible(cell: Cell, data: Mapping[str, TaskData], protocol: Protocol) -> str | None:
    """Why a cell does not apply to its task, or ``None`` when it does.

    The same for every encoder, so that a cell left out is left out for all.
    """
    task = data[cell.task]
    items, taken = len(task.splits["train"]), groups(task.card.kind, len(task.card.classes))
    count = shots(cell.budget)
    if feasible(items=items, groups=taken, shots=count, share=protocol.infeasible_share):
        return None
    what = {"multiclass": "classes", "multilabel": "groups (labels, and none)"}
    of = f" of {taken} {what[task.card.kind]}" if task.card.kind in what else ""
    return (
        f"{cell.budget}{of} would use "
        f"{protocol.infeasible_share:.0%} or more of the {items} training items"
    )
