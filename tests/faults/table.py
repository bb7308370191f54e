"""How often each fault is tried, and the table of what became of it."""

from __future__ import annotations

import os
from typing import Protocol

import pytest

__all__ = ["TRIES", "Report", "takes_minutes"]

# `make faults` tries each 25 times; the test suite once, and without those that take minutes.
TRIES = int(os.environ.get("BENCH_FAULTS", "1"))
takes_minutes = pytest.mark.skipif(TRIES == 1, reason="takes minutes: make faults")


class Report(Protocol):
    """Adds a line to the table that is printed in the end."""

    def __call__(self, fault: str, tried: int, survived: str, seen: str) -> None:
        """Say what was done, how often, what held, and what the user saw."""
