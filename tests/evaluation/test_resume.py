"""Evaluations that are stopped, fail, or are run again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from medtransfer.evaluation.evaluate import run
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import prepare
from medtransfer.specs.record import read_records
from tests.conftest import Bench, Small, spawn_bench, write_card, write_npz
from tests.helpers.evaluation import arguments, results, write_encoder
from tests.helpers.replicates import load_arrays


def test_a_finished_evaluation_is_not_run_again(small: Small, tmp_path: Path, bench: Bench) -> None:
    """The same command again runs no cell and changes no byte."""
    command = arguments(small, "pixels", tmp_path, "--adaptation", "knn")
    assert bench(*command).code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "pixels").rglob("*") if p.is_file()}
    again = bench(*command)
    assert again.code == 0 and "[" not in again.out.split("\n")[0]
    assert before == {p: p.read_bytes() for p in (tmp_path / "pixels").rglob("*") if p.is_file()}


def test_kill_9_loses_nothing(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Killed at arbitrary moments and started again, with two processes: the results of one."""
    encoder = write_encoder(tmp_path)
    assert bench(*arguments(small, encoder, tmp_path / "a", "--jobs", 1)).code == 0
    ledger = tmp_path / "b" / "tiny" / "records.jsonl"
    for lines, jobs in ((1, 2), (9, 1), (14, 2)):
        process = spawn_bench(*arguments(small, encoder, tmp_path / "b", "--jobs", jobs))
        while process.poll() is None:
            if ledger.exists() and ledger.read_bytes().count(b"\n") >= lines:
                process.kill()
                break
            time.sleep(0.005)
        process.communicate()
    with ledger.open("a") as file:
        file.write('{"schema": 1, "encoder": {"na')  # what a kill inside a write leaves
    assert bench(*arguments(small, encoder, tmp_path / "b", "--jobs", 1)).code == 0
    assert results(ledger) == results(tmp_path / "a" / "tiny" / "records.jsonl")


def test_interrupt_keeps_what_is_finished(small: Small, tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and one line, also with several processes; the rest is run later."""
    encoder = write_encoder(tmp_path)
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    process = spawn_bench(*arguments(small, encoder, tmp_path / "out", "--jobs", 2))
    while process.poll() is None and not (ledger.exists() and ledger.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    assert 3 <= len(results(ledger)) < 16


def descendants(process: int) -> list[int]:
    """The numbers of a process's children, and of theirs."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [number for child in map(int, children) for number in (child, *descendants(child))]


def test_workers_end_with_their_driver(small: Small, tmp_path: Path) -> None:
    """A driver that is killed leaves no process behind."""
    encoder = write_encoder(tmp_path)
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    driver = spawn_bench(*arguments(small, encoder, tmp_path / "out", "--jobs", 2))
    while driver.poll() is None and not ledger.exists():
        time.sleep(0.01)
    if not Path(f"/proc/{driver.pid}/task/{driver.pid}/children").exists():
        driver.kill()
        pytest.skip("no list of child processes on this system")
    workers = [Path(f"/proc/{pid}") for pid in descendants(driver.pid)]
    assert len(workers) >= 4  # two workers, the server that forked them, and Python's tracker
    driver.kill()
    driver.communicate()
    for _ in range(600):
        if not any(worker.exists() for worker in workers):
            break
        time.sleep(0.05)
    assert not [worker for worker in workers if worker.exists()]


def test_a_failure_is_recorded_and_tried_again(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A cell that crashes is said, the run goes on, and the next run tries that cell again."""
    flag = tmp_path / "broken"
    flag.touch()
    forward = f"""
        import pathlib
        if self.training and pathlib.Path({str(flag)!r}).exists():
            raise RuntimeError("out of luck")
    """
    encoder = write_encoder(tmp_path, forward=forward.strip())
    outcome = bench(*arguments(small, encoder, tmp_path / "out"))
    assert outcome.code == 1
    assert "failed: RuntimeError: out of luck" in outcome.out
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    assert sorted({r.status for r in read_records(ledger)}) == ["failed", "ok"]
    lines = len(ledger.read_text().splitlines())

    flag.unlink()
    assert bench(*arguments(small, encoder, tmp_path / "out")).code == 0
    assert {r.status for r in read_records(ledger)} == {"ok"}
    assert len(ledger.read_text().splitlines()) == lines + 2


def test_a_budget_in_disguise_does_not_apply(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A few-shot budget of nearly the whole training split is recorded as not applicable."""
    write_npz(small.data / "few.npz", train=36)
    write_card(small.cards, "few", "few.npz")
    outcome = bench(*arguments(small, "pixels", tmp_path, "--task", "few", "--adaptation", "knn"))
    assert outcome.code == 0, outcome.err
    status = {r.budget: r.status for r in read_records(tmp_path / "pixels" / "records.jsonl")}
    assert status == {"1-shot": "ok", "10-shot": "not_applicable", "full": "ok"}


def test_a_ledger_is_not_mixed(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Records of another protocol, other data or another encoder are never added to."""
    command = arguments(small, "pixels", tmp_path, "--adaptation", "knn")
    assert bench(*command).code == 0
    ledger = tmp_path / "pixels" / "records.jsonl"
    before = ledger.read_bytes()

    def refused(message: str, *changed: object) -> None:
        outcome = bench(*changed)
        assert outcome.code == 2 and message in outcome.err, outcome.err
        assert "--fresh" in outcome.err and len(outcome.err.splitlines()) == 1
        assert ledger.read_bytes() == before

    refused("made under protocol quick, not v1", *(x if x != "quick" else "v1" for x in command))
    images = np.load(small.npz)["test_images"]
    images[0, 0, 0] ^= 1
    write_npz(small.npz, test_images=images)
    refused("other data", *command)
    write_npz(small.npz)
    ledger.write_bytes(before := before.replace(b'"sha256":"', b'"sha256":"0'))
    refused("another encoder of the name pixels", *command)

    outcome = bench(*command, "--fresh")
    assert outcome.code == 0, outcome.err
    assert len(results(ledger)) == 7


def test_fresh_forgets_what_is_asked_for_only(small: Small, tmp_path: Path, bench: Bench) -> None:
    """All else keeps its records and arrays, and it is said how many are forgotten."""
    write_card(small.cards, "other", "small.npz")
    command = arguments(small, "pixels", tmp_path, "--adaptation", "knn")
    assert bench(*command).code == 0
    folder = tmp_path / "pixels"
    before = {record.cell: record for record in read_records(folder / "records.jsonl")}
    replicates = load_arrays(folder / "replicates.npz")
    outcome = bench(*command, "--task", "other", "--budget", "full", "--fresh")
    assert outcome.code == 0, outcome.err
    assert "note: --fresh: forgets 1 of 14 earlier records" in outcome.out
    after = {record.cell: record for record in read_records(folder / "records.jsonl")}
    assert {cell for cell in before if cell.task == "small"} < set(after)
    assert len(after) == 14
    for cell, record in after.items():
        assert record == before[cell] or (cell.task, cell.budget) == ("other", "full")
    kept = load_arrays(folder / "replicates.npz")
    assert {key for key in replicates if key.startswith("small/")} < set(kept)
    assert sum(key.startswith("other/") for key in kept) == 14  # two test splits of each cell
    np.testing.assert_equal(
        {k: kept[k] for k in replicates if k.startswith("small/")},
        {k: v for k, v in replicates.items() if k.startswith("small/")},
    )


def test_another_evaluation_that_ended_meanwhile(small: Small, tmp_path: Path) -> None:
    """Cells that another evaluation finished after this one was prepared are not run again."""
    options = {"protocol": "quick", "adaptations": ("knn",), "out": tmp_path, "data": small.data}
    request = Request("pixels", task_folder=small.cards, **options)  # type: ignore[arg-type]
    first, second = prepare(request), prepare(request)
    assert len(first.pending) == len(second.pending) == 7
    records = run(first)
    content = (tmp_path / "pixels" / "records.jsonl").read_bytes()
    assert run(second) == records
    assert (tmp_path / "pixels" / "records.jsonl").read_bytes() == content
