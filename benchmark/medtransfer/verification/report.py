"""Results of a verification, and their printing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medtransfer.core.errors import plain
from medtransfer.verification.entries import LEDGER


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        title: Subject of the check, with counts.
        problems: One line each; empty when it passed.
        notes: For the reader, such as data that were not at hand.
        label: Printed before the title of a check that passed.
    """

    title: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    label: str = "ok"


def print_checks(checks: Iterable[Check]) -> int:
    """Print checks as they are done, problems as errors, and count the problems."""
    wrong = 0
    for check in checks:
        for note in check.notes:
            print(f"note: {plain(note)}")
        for problem in check.problems:
            print(f"error: {plain(problem)}", file=sys.stderr)
        if not check.problems:
            print(f"{check.label}: {check.title}", flush=True)
        wrong += len(check.problems)
    return wrong


def collapse(problems: Iterable[str]) -> Iterator[str]:
    """Collapse a problem that many records share into one line."""
    groups: dict[str, list[str]] = {}
    for problem in problems:
        head, _, text = problem.partition("): ")
        groups.setdefault(text if head.startswith(LEDGER) and text else problem, []).append(problem)
    for alike in groups.values():
        if len(alike) <= 3:
            yield from alike
        else:
            yield f"{alike[0]} (and so in {len(alike) - 1} more records)"
