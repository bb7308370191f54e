"""Progress of a job of many steps: evaluation, pre-training, scoring."""

from __future__ import annotations


class JobProgress:
    """Progress callbacks; no-ops by default, overridden by the CLI."""

    def say(self, line: str) -> None:
        """Show a line that describes the job."""

    def warn(self, message: str) -> None:
        """Show a note that needs no action yet: one line."""

    def begin(self, total: int, done: int = 0, *, unit: str, work: float | None = None) -> None:
        """Start a job.

        Args:
            total: Number of steps, finished ones included.
            done: Steps that an earlier call finished.
            unit: Name of the steps, such as ``cells``.
            work: Work of the remaining steps, in any unit; default is their number.
        """

    def started(self, step: str) -> None:
        """Start a step."""

    def finished(
        self, line: str, *, steps: int = 1, work: float | None = None, failed: bool = False
    ) -> None:
        """Finish one step or several.

        Args:
            line: Their result.
            steps: How many.
            work: Their share of the job's work.
            failed: Whether the result needs attention.
        """

    def end(self) -> None:
        """End the job, for whatever reason."""
