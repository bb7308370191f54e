"""kill -9 at random moments: every finished cell is there once, with the undisturbed numbers."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Small, spawn_bench, write_card, write_npz
from tests.faults.table import TRIES, Report, takes_minutes
from tests.helpers.evaluation import arguments, results, write_encoder
from tests.helpers.replicates import load_arrays

pytestmark = [pytest.mark.xdist_group("faults"), takes_minutes]


def kill_often(command: Sequence[object], *, seconds: float, check: Callable[[], None]) -> int:
    """Start a command again and again, and kill it at random moments, until it has been enough.

    Args:
        command: Of ``bench``; where it ends before it is killed it has done its work.
        seconds: That it takes undisturbed, from its start to its end.
        check: Called after each kill.

    Returns:
        How many times it was killed.
    """
    moments, kills = random.Random(str(command[0])), 0
    for _ in range(TRIES * 3):
        process = spawn_bench(*command)
        try:
            process.communicate(timeout=moments.uniform(0.1, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        assert process.returncode in (0, -signal.SIGKILL)
        check()
        if process.returncode == 0 or kills == TRIES:
            break
    return kills


def finish(command: Sequence[object]) -> float:
    """Run a command to its end, and return how long that took."""
    clock = time.monotonic()
    process = spawn_bench(*command)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return time.monotonic() - clock


@pytest.fixture
def several(tmp_path: Path) -> Iterator[Small]:
    """Two tasks, so that there is an archive of predictions for each."""
    data, cards = tmp_path / "data", tmp_path / "cards"
    data.mkdir()
    write_npz(data / "small.npz")
    write_npz(data / "other.npz", train=66)
    write_card(cards, "other", "other.npz")
    yield Small(data, cards, data / "small.npz", write_card(cards, "small", "small.npz"))


@pytest.mark.parametrize("executor", ["in one process", "--jobs 2", "--executor ray"])
def test_evaluate(executor: str, several: Small, tmp_path: Path, report: Report) -> None:
    """Whenever the driver is killed, the same command goes on; nothing is lost or run twice."""
    if "ray" in executor:
        pytest.importorskip("ray")
    options = {"--jobs 2": ("--jobs", 2), "--executor ray": ("--executor", "ray", "--jobs", 2)}
    encoder = write_encoder(tmp_path)
    chosen = options.get(executor, ("--jobs", 1))
    finish(arguments(several, encoder, tmp_path / "whole", "--jobs", 1))
    expected = results(tmp_path / "whole" / "tiny" / "records.jsonl")
    seconds = finish(arguments(several, encoder, tmp_path / "timed", *chosen))
    kills = round_number = 0
    while kills < TRIES:
        out = tmp_path / f"killed-{round_number}"
        ledger = out / "tiny" / "records.jsonl"

        def check(ledger: Path = ledger) -> None:
            if ledger.exists():
                found = results(ledger)
                assert found == {cell: expected[cell] for cell in found}

        command = arguments(several, encoder, out, *chosen)
        kills += kill_often(command, seconds=seconds, check=check)
        finish(command)
        assert results(ledger) == expected
        for name in ("replicates.npz", "predictions/small.npz", "predictions/other.npz"):
            whole, own = (load_arrays(f / "tiny" / name) for f in (tmp_path / "whole", out))
            assert set(whole) == set(own)
            assert all(np.array_equal(whole[key], own[key]) for key in whole)
        round_number += 1
    report(f"kill -9 of evaluate, {executor}", kills, "every cell once, the same bits", "nothing")


def test_pretrain(tmp_path: Path, report: Report) -> None:
    """Whenever a pre-training is killed, it goes on to the same weights, to the last bit."""

    def command(name: str) -> list[object]:
        return [
            *("pretrain", "--recipe", "supervised", "--task", "phantom_ct", "--epochs", 6),
            *("--architecture", "resnet_mini", "--size", 32, "--images", 128),
            *("--checkpoints", "1,3", "--device", "cpu", "--out", tmp_path / name),
        ]

    def digest(name: str) -> dict[str, str]:
        files = sorted((tmp_path / name).rglob("*.safetensors"))
        return {
            str(file.relative_to(tmp_path / name)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        }

    seconds = finish(command("whole"))
    expected, kills, round_number = digest("whole"), 0, 0
    assert len(expected) >= 3
    while kills < TRIES:
        name = f"killed-{round_number}"
        kills += kill_often(command(name), seconds=seconds, check=lambda: None)
        finish(command(name))
        assert digest(name) == expected
        round_number += 1
    report("kill -9 of pretrain", kills, "the same weights and checkpoints, to the bit", "nothing")
