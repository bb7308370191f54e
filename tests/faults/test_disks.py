"""Disks that are full, read-only or damaged, and two who write at once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from medtransfer.specs.record import read_records
from tests.conftest import Bench, Outcome, Small, spawn_bench
from tests.faults.table import TRIES, Report
from tests.helpers.evaluation import arguments, results
from tests.helpers.replicates import load_arrays

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of its own in memory; called with options of ``mount`` it is changed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, timeout=10
        )
        return folder

    try:
        mount("size=8m")
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no disk can be mounted here, which takes root")
    yield mount
    subprocess.run(["umount", folder], check=True, timeout=10)


def neighbours(small: Small, out: Path, *more: object) -> list[object]:
    """Options of an evaluation of 7 cells that train nothing: disks fail alike for all cells."""
    return arguments(small, "pixels", out, "--adaptation", "knn", *more)


@pytest.fixture
def whole(small: Small, tmp_path: Path, bench: Bench) -> dict[object, object]:
    """The results of an evaluation that nothing happened to."""
    assert bench(*neighbours(small, tmp_path / "whole")).code == 0
    return results(tmp_path / "whole" / "pixels" / "records.jsonl")


def is_one_line(outcome: Outcome) -> bool:
    """Whether what went wrong is said in one line."""
    return outcome.err.count("\n") == 1 and outcome.err.startswith("error: ")


def test_a_full_disk(
    small: Small, tmp_path: Path, bench: Bench, disk: Disk, whole: object, report: Report
) -> None:
    """At whichever write the disk is full: what ended before is there, and the rest can follow."""
    needed = sum(f.stat().st_size for f in (tmp_path / "whole").rglob("*") if f.is_file())
    pages = needed // 4096 + 8
    seen = set()
    for size in sorted({round(1 + step * pages / TRIES) for step in range(TRIES)}):
        out = disk(f"remount,size={4 * size}k")
        outcome = bench(*neighbours(small, out))
        assert outcome.code in (0, 1) and "Traceback" not in outcome.err
        if outcome.code:
            assert is_one_line(outcome), outcome.err
            assert "No space left on device" in outcome.err
            seen.add(outcome.err.split(": ", 2)[2].split(";")[0].strip())
        ledger = out / "pixels" / "records.jsonl"
        found = results(ledger) if ledger.exists() else {}
        assert found == {cell: whole[cell] for cell in found}  # type: ignore[index]
        disk("remount,size=8m")
        assert bench(*neighbours(small, out)).code == 0
        assert results(ledger) == whole
        assert not [f.name for f in out.rglob("*") if f.name.startswith(".records")]
        shutil.rmtree(out / "pixels")
    report("disk full, --out", TRIES, "what ended before; the rest on more room", "; ".join(seen))


def test_a_full_cache(
    small: Small,
    tmp_path: Path,
    bench: Bench,
    disk: Disk,
    whole: object,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where decoded images and features do not fit, it is said, and nothing half-written stays."""
    folder = disk("remount,size=8m")
    monkeypatch.setenv("BENCH_CACHE", str(folder))
    seen = set()
    for trial in range(TRIES):
        disk(f"remount,size={8 + 12 * trial}k")
        out = tmp_path / f"out-{trial}"
        outcome = bench(*neighbours(small, out))
        assert "Traceback" not in outcome.err
        assert outcome.code in (0, 1)
        if outcome.err:
            assert is_one_line(outcome), outcome.err
            seen.add("cannot be written; set BENCH_CACHE to a folder that ... has room")
            assert "No space left on device" in outcome.err or "requested and" in outcome.err
        elif outcome.code == 1:
            records = read_records(out / "pixels" / "records.jsonl")
            failed = [record for record in records if record.status == "failed"]
            # Of numpy's own writing: "4096 requested and 0 written".
            said = ("No space left on device", "requested and")
            assert all(any(text in str(r.error) for text in said) for r in failed), failed
            seen.add("failed cells, with the reason")
        disk("remount,size=8m")
        assert bench(*neighbours(small, out)).code == 0
        assert {r.cell for r in read_records(out / "pixels" / "records.jsonl")} == set(whole)  # type: ignore[call-overload]
        for entry in folder.iterdir():
            shutil.rmtree(entry)
    report("disk full, cache", TRIES, "the rest on more room", "; ".join(sorted(seen)))


def test_a_full_board(
    small: Small, tmp_path: Path, bench: Bench, disk: Disk, whole: object, report: Report
) -> None:
    """A board that does not fit is one line, and written on more room."""
    out = disk("remount,size=64k")
    command = ("leaderboard", "--submissions", tmp_path / "whole", "--out", out / "board")
    outcome = bench(*command)
    assert outcome.code == 1 and is_one_line(outcome), outcome.err
    assert "cannot be written: No space left on device" in outcome.err
    disk("remount,size=8m")
    assert bench(*command).code == 0
    assert bench(*command, "--check").code == 0
    report("disk full, leaderboard", 1, "the board on more room", "--out: ... cannot be written")


def test_a_disk_that_is_read_only(small: Small, bench: Bench, disk: Disk, report: Report) -> None:
    """Found before anything runs."""
    out = disk("remount,ro")
    for _ in range(TRIES):
        outcome = bench(*neighbours(small, out / "results"))
        assert outcome.code == 2 and is_one_line(outcome), outcome.err
        assert "cannot be written" in outcome.err
    disk("remount,rw")
    report("read-only --out", TRIES, "nothing was begun", "--out: ... cannot be written")


def test_two_at_once(small: Small, tmp_path: Path, whole: object, report: Report) -> None:
    """One writes, the other is told; whatever the order, each cell is there once."""
    refused = 0
    for trial in range(TRIES):
        command = neighbours(small, tmp_path / f"both-{trial}", "--jobs", 1)
        pair = [spawn_bench(*command) for _ in range(2)]
        errors = [process.communicate()[1] for process in pair]
        codes = sorted(process.returncode for process in pair)
        assert codes in ([0, 0], [0, 2]), errors
        refused += codes == [0, 2]
        assert codes == [0, 0] or any("another evaluation is writing there" in e for e in errors)
        assert results(tmp_path / f"both-{trial}" / "pixels" / "records.jsonl") == whole
    seen = f"another evaluation is writing there ({refused} times; else the second came later)"
    report("two evaluations into one folder", TRIES, "every cell once", seen)


def test_damaged_ledgers(
    small: Small, tmp_path: Path, bench: Bench, whole: object, report: Report
) -> None:
    """A torn tail and a doubled line do no harm; a damaged line is named, and run again."""
    rng = random.Random(0)
    original = (tmp_path / "whole" / "pixels" / "records.jsonl").read_bytes()
    lines = original.splitlines(keepends=True)
    named = 0
    for trial in range(TRIES):
        folder = tmp_path / f"torn-{trial}" / "pixels"
        shutil.copytree(tmp_path / "whole" / "pixels", folder)
        ledger = folder / "records.jsonl"
        command = neighbours(small, folder.parent)

        ledger.write_bytes(original[: rng.randrange(1, len(original))])
        assert bench(*command).code == 0
        assert results(ledger) == whole

        doubled = lines.copy()
        doubled.insert(rng.randrange(len(lines)), rng.choice(lines))
        ledger.write_bytes(b"".join(doubled))
        assert bench(*command).code == 0
        assert {r.cell: r.metrics for r in read_records(ledger)} == {
            cell: values[2]
            for cell, values in whole.items()  # type: ignore[attr-defined]
        }

        place = rng.randrange(len(lines))
        broken = bytearray(lines[place])
        broken[rng.randrange(len(broken) - 1)] ^= 0x80
        ledger.write_bytes(b"".join([*lines[:place], bytes(broken), *lines[place + 1 :]]))
        outcome = bench(*command)
        assert outcome.code == 2 and is_one_line(outcome), outcome.err
        assert f"line {place + 1}: " in outcome.err and "delete that line" in outcome.err
        named += 1
        ledger.write_bytes(b"".join([*lines[:place], *lines[place + 1 :]]))
        assert bench(*command).code == 0
        assert results(ledger) == whole
    report("ledger with a torn tail", TRIES, "the cells before; the rest runs again", "nothing")
    report("ledger with a doubled line", TRIES, "every cell counts once", "nothing")
    seen = "line N: ...; delete that line to run its cell again"
    report("ledger with a flipped byte", named, "all other cells", seen)


def test_a_finished_folder_is_mended(
    small: Small, tmp_path: Path, bench: Bench, whole: object, report: Report
) -> None:
    """What a killed writer left is gone after the same command, even where no cell is to be run."""
    folder = tmp_path / "whole" / "pixels"
    temporary = (".replicates.npz.a1", ".records.jsonl.a1", "predictions/.small.npz.a1")
    for name in (*temporary, "records.jsonl.lock", "records.jsonl", "encoder.yaml"):
        with (folder / name).open("ab") as file:
            file.write(b"\0\xff")
        verify = ("verify", folder, "--tasks", small.cards, "--data", small.data)
        assert bench("validate", folder).code == bench(*verify).code == 2, name
        outcome = bench(*neighbours(small, tmp_path / "whole"))
        assert outcome.code == 0 and "all 7 cells" in outcome.out, outcome.err
        assert bench("validate", folder).code == bench(*verify).code == 0, name
        assert results(folder / "records.jsonl") == whole
    report("leftovers in a finished folder", 6, "every cell", "nothing; validate and verify pass")


def test_truncated_caches(
    small: Small,
    tmp_path: Path,
    bench: Bench,
    whole: object,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file of the cache that is cut off is made again."""
    cache, rng, tried = tmp_path / "cache", random.Random(0), 0
    monkeypatch.setenv("BENCH_CACHE", str(cache))
    assert bench(*neighbours(small, tmp_path / "first")).code == 0
    for trial in range(TRIES):
        files = sorted(f for f in cache.rglob("*") if f.is_file() and f.stat().st_size)
        for file in rng.sample(files, 2):
            os.truncate(file, rng.randrange(file.stat().st_size))
            tried += 1
        out = tmp_path / f"cut-{trial}"
        outcome = bench(*neighbours(small, out))
        assert outcome.code == 0, outcome.err
        assert results(out / "pixels" / "records.jsonl") == whole
    report("cache entry cut off", tried, "the same numbers", "damaged; decoding the split again")


def test_a_clock_that_jumps_back(
    small: Small,
    tmp_path: Path,
    bench: Bench,
    whole: object,
    report: Report,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No decision and no duration rests on the time of day."""
    import time

    real, rng = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() - rng.uniform(0, 1e6))
    for trial in range(TRIES):
        out = tmp_path / f"clock-{trial}"
        assert bench(*neighbours(small, out)).code == 0
        records = read_records(out / "pixels" / "records.jsonl")
        assert results(out / "pixels" / "records.jsonl") == whole
        assert all(r.cost is None or 0 <= r.cost.seconds < 600 for r in records)
    report("clock that jumps back", TRIES, "every cell, durations right", "nothing")


def test_arrays_of_a_lost_record_are_replaced(
    small: Small, tmp_path: Path, bench: Bench, whole: object
) -> None:
    """What was written of a cell whose record was not is replaced when it runs again."""
    folder = tmp_path / "whole" / "pixels"
    before = load_arrays(folder / "replicates.npz")
    ledger = folder / "records.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-3]))
    assert bench(*neighbours(small, tmp_path / "whole")).code == 0
    after = load_arrays(folder / "replicates.npz")
    assert set(before) == set(after)
    assert all(np.array_equal(before[key], after[key]) for key in before)
