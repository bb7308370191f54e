"""Workers that die, memory that is short, and training that goes astray."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.specs.record import read_records
from tests.conftest import Bench, Small, spawn_bench
from tests.faults.table import Report, takes_minutes
from tests.helpers.evaluation import arguments, results, write_encoder

pytestmark = pytest.mark.xdist_group("faults")

# Kills its process in the first steps of a fine-tuning, as often as the file says; under a lock,
# since two workers read it.
DIES = """
        if self.training and images.device.type != "meta":
            import fcntl, os, signal
            with open({counter!r}, "r+") as left:
                fcntl.flock(left, fcntl.LOCK_EX)
                if (count := int(left.read())) > 0:
                    left.seek(0)
                    left.truncate()
                    left.write(str(count - 1))
                    left.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
"""
# Asks for 64 MiB an image in training, of an address space of 2 GiB more than the process has. The
# limit holds for this request alone: other threads of the process need room for their stacks, and
# native code that is refused it may crash.
CROWDED = """
        if self.training and images.device.type != "meta":
            import resource, pathlib
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
            before = resource.getrlimit(resource.RLIMIT_AS)
            limit = pages * resource.getpagesize() + 2 * 2**30
            resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
            try:
                room = torch.empty(len(images), 2**24)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
            images = images + 0 * room[:, 0].nan_to_num(0, 0, 0).clamp(0, 0)[:, None, None, None]
"""
ASTRAY = """
        if self.training and images.device.type != "meta":
            images = images * float("nan")
"""


@pytest.mark.parametrize(
    ("executor", "deaths"),
    [
        ("--jobs 2", 1000),
        pytest.param("--jobs 2", 2, marks=takes_minutes),
        pytest.param("--executor ray", 2, marks=takes_minutes),
        pytest.param("--executor ray", 1000, marks=takes_minutes),
    ],
)
def test_a_worker_that_dies(
    executor: str, deaths: int, small: Small, tmp_path: Path, bench: Bench, report: Report
) -> None:
    """Its cell is tried again, three times in all; the others go on."""
    if "ray" in executor:
        pytest.importorskip("ray")
    counter = tmp_path / "counter"
    counter.write_text("0")
    encoder = write_encoder(tmp_path, forward=DIES.format(counter=str(counter)).strip())
    options = ("--jobs", 2) if executor == "--jobs 2" else ("--executor", "ray", "--jobs", 2)
    assert bench(*arguments(small, encoder, tmp_path / "whole", "--jobs", 1)).code == 0
    expected = results(tmp_path / "whole" / "tiny" / "records.jsonl")

    counter.write_text(str(deaths))
    process = spawn_bench(*arguments(small, encoder, tmp_path / "out", *options))
    _, errors = process.communicate()
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    records = {record.cell: record for record in read_records(ledger)}
    failed = {cell for cell, record in records.items() if record.status == "failed"}
    assert set(records) == set(expected)
    assert process.returncode == (1 if failed else 0), errors
    assert failed == {c for c in records if c.adaptation == "finetune" and deaths > 2}
    assert [
        r.error for r in records.values() if r.cell in failed and "3 times" not in str(r.error)
    ] == []
    found = results(ledger)
    assert all(found[cell] == expected[cell] for cell in expected if cell not in failed)
    counter.write_text("0")
    assert bench(*arguments(small, encoder, tmp_path / "out", "--jobs", 1)).code == 0
    assert {c: r.metrics for c, r in ((r.cell, r) for r in read_records(ledger))} == {
        cell: values[2] for cell, values in expected.items()
    }
    seen = f"failed: {records[min(failed)].error}" if failed else "nothing"
    count = 3 * len(failed) if failed else deaths
    report(f"worker killed (SIGKILL), {executor}", count, "all other cells, the same", seen)


def test_memory_that_is_short(small: Small, tmp_path: Path, bench: Bench, report: Report) -> None:
    """A step that the processor's memory does not hold goes through in parts, and says so."""
    encoder = write_encoder(tmp_path, forward=CROWDED.strip())
    outcome = bench(
        *arguments(small, encoder, tmp_path / "out", "--jobs", 1),
        *("--adaptation", "finetune", "--budget", "full"),
    )
    assert outcome.code == 0, outcome.err
    [record] = read_records(tmp_path / "out" / "tiny" / "records.jsonl")
    assert record.status == "ok"
    parts = record.environment["images_at_a_time"]
    assert 1 <= parts < 64
    report("out of memory in a step (CPU)", 1, "the cell", f"images_at_a_time: {parts}")


def test_training_that_goes_astray(
    small: Small, tmp_path: Path, bench: Bench, report: Report
) -> None:
    """A cell whose training goes to NaN has diverged, which is a result; the others have theirs."""
    encoder = write_encoder(tmp_path, forward=ASTRAY.strip())
    outcome = bench(*arguments(small, encoder, tmp_path / "out", "--jobs", 1))
    assert outcome.code == 0, outcome.err
    statuses = {r.cell: r.status for r in read_records(tmp_path / "out/tiny/records.jsonl")}
    astray = {cell for cell, status in statuses.items() if status == "diverged"}
    assert astray and all(cell.adaptation == "finetune" for cell in astray)
    assert {status for cell, status in statuses.items() if cell not in astray} == {"ok"}
    seen = "training went to NaN at every learning rate"
    report("training goes to NaN", len(astray), "all other cells", seen)
