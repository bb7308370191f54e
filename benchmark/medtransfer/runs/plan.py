"""The plan: which cells an evaluation consists of, decided from cards and protocol alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from medtransfer.data.draws import feasible, groups
from medtransfer.data.store import TaskData
from medtransfer.specs.base import InputError, suggest
from medtransfer.specs.protocol import BUDGETS, Adaptation, Protocol, shots
from medtransfer.specs.record import Cell

__all__ = ["check_choices", "infeasible", "plan_cells"]


def check_choices(
    protocol: Protocol, *, budgets: Iterable[str], adaptations: Iterable[str]
) -> None:
    """Refuse budgets and adaptations that the protocol does not have.

    Raises:
        InputError: With the closest one that it has.
    """
    offered = sorted({budget for name in protocol.ranked for budget in protocol.budgets(name)})
    for option, given, known, every in (
        ("budget", budgets, offered, BUDGETS),
        ("adaptation", adaptations, sorted(protocol.ranked), get_args(Adaptation)),
    ):
        for value in given:
            if value not in known:
                # A real one that this protocol lacks is no misspelling of those that it has.
                hint = f"; it has: {', '.join(known)}" if value in every else suggest(value, known)
                raise InputError(
                    f"--{option}: protocol {protocol.name} has no {option} '{value}'{hint}"
                )


def plan_cells(
    tasks: Iterable[str],
    protocol: Protocol,
    *,
    budgets: Iterable[str] = (),
    adaptations: Iterable[str] = (),
) -> list[Cell]:
    """All cells in the order in which they run: quick ones of a task first.

    Args:
        tasks: Names of the tasks.
        protocol: The protocol.
        budgets: Only these; empty is all.
        adaptations: Only these; empty is all.
    """
    wanted_budgets, wanted = set(budgets), set(adaptations)
    return [
        Cell(task, budget, adaptation, draw)
        for task in tasks
        for adaptation in protocol.ranked
        if not wanted or adaptation in wanted
        for budget, draws in protocol.budgets(adaptation).items()
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
    return (
        f"{cell.budget} of {taken} {what[task.card.kind]} would use "
        f"{protocol.infeasible_share:.0%} or more of the {items} training items"
    )
