"""Progress: a bar on a terminal; elsewhere a line for each finished step."""

from __future__ import annotations

import pytest
from rich.console import Console

from medtransfer.cli import progress as module
from medtransfer.cli.progress import ConsoleProgress


def run(progress: ConsoleProgress) -> None:
    """Resume a job of four cells, one of which fails, and then do one of many steps."""
    with progress:
        progress.begin(4, 1, unit="cells", work=30)
        for line, failed in (("first", False), ("[second]", True), ("third", False)):
            progress.started("cell")
            progress.finished(line, work=10, failed=failed)
        progress.end()
        progress.begin(100, unit="steps")
        for step in range(0, 100, 2):
            progress.finished(f"loss {step}", steps=2)


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Each single step is a line; of steps in groups about twenty lines and the last one."""
    run(ConsoleProgress())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "resuming: 1 of 4 cells are finished already",
        "[2/4] first",
        "[3/4] [second]",
        "[4/4] third",
    ]
    assert 10 < len(lines[4:]) <= 21 and lines[-1] == "[100/100] loss 98"


def test_only_failures_are_lines_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar shows the rest, and is gone at the end."""
    monkeypatch.setattr(module, "console", Console(force_terminal=True, width=80))
    progress = ConsoleProgress()
    run(progress)
    out = capsys.readouterr().out
    assert "[3/4] [second]" in out and "[2/4] first" not in out and "4/4 cells" in out
    assert progress._bar is None
