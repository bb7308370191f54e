"""Failed cells: their tracebacks stand in a log, and on the terminal when that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.specs.record import read_records
from tests.conftest import Bench, Small
from tests.helpers.evaluation import arguments, write_encoder


def write_failing(folder: Path) -> tuple[Path, Path]:
    """An encoder whose training fails while a file is there, and that file."""
    flag = folder / "broken"
    flag.touch()
    forward = f"""
        import pathlib
        if self.training and pathlib.Path({str(flag)!r}).exists():
            raise RuntimeError("out of luck")
    """
    return write_encoder(folder, forward=forward.strip()), flag


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_log_has_the_traceback(jobs: int, small: Small, tmp_path: Path, bench: Bench) -> None:
    """A block for each failed cell, from whichever process; it is no part of the submission."""
    encoder, flag = write_failing(tmp_path)
    chosen = ("--jobs", jobs, "--adaptation", "finetune", "--adaptation", "knn")
    outcome = bench(*arguments(small, encoder, tmp_path / "out", *chosen))
    log = tmp_path / "out" / "tiny" / "errors.log"
    assert outcome.code == 1 and f"tracebacks: {log}" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
    failed = [
        record
        for record in read_records(log.with_name("records.jsonl"))
        if record.status == "failed"
    ]
    blocks = log.read_text().strip().split("\n\n")
    assert len(failed) == len(blocks) == 2
    for record, block in zip(failed, blocks, strict=True):
        lines = block.splitlines()
        assert lines[0] == f"{record.finished} {record.cell}"
        assert lines[1] == "Traceback (most recent call last):"
        assert lines[-1] == "RuntimeError: out of luck"
        assert any("tiny.py" in line for line in lines)

    flag.unlink()
    assert bench(*arguments(small, encoder, tmp_path / "out", *chosen)).code == 0
    checked = bench("validate", log.parent, "--tasks", small.cards, "--data", small.data)
    assert "errors.log" not in checked.out + checked.err


def test_debug_shows_the_traceback(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Of a failed cell, and of what ends the command; the exit codes stay."""
    encoder, _ = write_failing(tmp_path)
    chosen = ("--jobs", 1, "--adaptation", "finetune", "--budget", "full", "--debug")
    outcome = bench(*arguments(small, encoder, tmp_path / "out", *chosen))
    assert outcome.code == 1
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.err.rstrip().endswith("RuntimeError: out of luck")
    wrong = bench(*arguments(small, "nobody", tmp_path / "out", "--debug"))
    assert wrong.code == 2
    assert wrong.err.startswith("Traceback") and "InputError: unknown encoder" in wrong.err
