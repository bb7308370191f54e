"""How a pre-training run tells others of its progress."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.pretraining.plan import Plan

__all__ = ["PretrainingProgress"]


class PretrainingProgress:
    """Is told how a run goes. This one says nothing; the command line has its own."""

    def begin(self, plan: Plan, step: int, notes: Sequence[str]) -> None:
        """The encoder is built; ``step`` steps are there already."""

    def advance(self, step: int, loss: float) -> None:
        """So many steps are done; the mean loss of those since the last call."""

    def end(self) -> None:
        """Nothing runs any more, whatever the reason."""
