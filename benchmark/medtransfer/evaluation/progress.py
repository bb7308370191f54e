"""How a run tells others of its progress."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.specs.record import Cell, Record

__all__ = ["RunProgress"]


class RunProgress:
    """Is told how an evaluation goes. This one says nothing; the command line has its own."""

    def begin(self, pending: dict[Cell, int], total: int, notes: Sequence[str]) -> None:
        """The encoder is loaded.

        Args:
            pending: The cells that will run, with their FLOPs.
            total: Number of all cells, finished ones included.
            notes: What the user should know.
        """

    def started(self, cell: Cell) -> None:
        """A cell begins."""

    def finished(self, record: Record) -> None:
        """A cell's record is written."""

    def end(self) -> None:
        """No cell runs any more, whatever the reason."""
