"""Output folders of `bench pretrain`: second calls, full disks and other runs."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from filelock import FileLock

from tests.conftest import Bench, Small, spawn_bench, write_card, write_npz
from tests.helpers.pretraining import arguments, finish, hash_weights, read_card


def test_a_second_call_leaves_the_first_alone(small: Small, tmp_path: Path, bench: Bench) -> None:
    """While a call holds the folder others are refused, however many they are."""
    out = tmp_path / "own"
    out.mkdir()
    with FileLock(out / ".lock"):
        for _ in range(2):
            run = bench("pretrain", *arguments(small, out))
            assert run.code == 2
            assert "another run is writing there" in run.err
    assert bench("pretrain", *arguments(small, out)).code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "encoder.yaml",
        "losses.csv",
        "source_head.safetensors",
        "weights.safetensors",
    ]


def test_what_decides_the_weights_is_compared(small: Small, tmp_path: Path, bench: Bench) -> None:
    """The order of the sources, parts and the cards' fields make another run."""
    write_npz(small.data / "other.npz")
    write_card(small.cards, "other", "other.npz")
    out = tmp_path / "own"
    first = arguments(small, out, epochs=1)
    assert bench("pretrain", *first, "--task", "other").code == 0
    swapped = arguments(small, out, epochs=1, task="other")
    assert "the encoder of another command" in bench("pretrain", *swapped, "--task", "small").err
    parts = arguments(small, out, epochs=1, accumulate=2)
    assert "the encoder of another command" in bench("pretrain", *parts, "--task", "other").err
    write_card(small.cards, "other", "other.npz", flip=True)
    assert "the encoder of another command" in bench("pretrain", *first, "--task", "other").err


def test_checkpoints_of_another_run_are_made_anew(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """A trajectory holds encoders of one run only, whatever a killed one left."""
    out, left = tmp_path / "own", tmp_path / "left"
    assert bench("pretrain", *arguments(small, left, recipe="simclr", checkpoints="2")).code == 0
    (left / "checkpoints").rename(out.mkdir() or out / "checkpoints")
    (out / "checkpoints" / ".epoch-half").mkdir()
    (out / ".state.pt.half").write_bytes(b"half")
    assert bench("pretrain", *arguments(small, out, checkpoints="2,4")).code == 0
    made = [read_card(path) for path in sorted((out / "checkpoints").iterdir())]
    assert [card.pretraining.objective for card in made] == ["supervised", "supervised"]
    assert not (out / ".state.pt.half").exists()


def test_the_parent_is_not_overwritten(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A run does not write where it starts from."""
    parent = tmp_path / "parent"
    assert bench("pretrain", *arguments(small, parent, epochs=1)).code == 0
    start = {"init": parent, "architecture": None, "size": None}
    for out in (parent, parent / "child", tmp_path):
        run = bench("pretrain", *arguments(small, out, fresh=True, **start))
        assert run.code == 2
    assert (parent / "encoder.yaml").exists()


def test_a_full_disk_leaves_the_last_state(small: Small, tmp_path: Path, bench: Bench) -> None:
    """What cannot be written is said in one line; the run goes on from the last whole state."""
    changes = {"epochs": 30, "images": 48, "checkpoints": "3"}
    out, whole = tmp_path / "full", tmp_path / "whole"
    assert bench("pretrain", *arguments(small, whole, **changes)).code == 0
    process = spawn_bench("pretrain", *arguments(small, out, **changes))
    while process.poll() is None and not (out / "checkpoints" / "epoch-0003").exists():
        time.sleep(0.02)
    process.kill()
    finish(process)
    before = (out / "state.pt").read_bytes()
    # A file may not grow beyond a tenth of the state: what the writer sees is a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 10, limits[1]))
    try:
        outcome = bench("pretrain", *arguments(small, out, **changes))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.code == 1, outcome.err
    assert "cannot be written: File too large" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert (out / "state.pt").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "state.pt"]
    assert bench("pretrain", *arguments(small, out, **changes)).code == 0
    assert hash_weights(out) == hash_weights(whole)


def test_a_folder_of_another_run_is_left_alone(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Another command does not overwrite an encoder, finished or not; --fresh does."""
    out = tmp_path / "own"
    assert bench("pretrain", *arguments(small, out, checkpoints="2")).code == 0
    before = hash_weights(out)
    other = bench("pretrain", *arguments(small, out, epochs=5))
    assert other.code == 2
    assert "holds the encoder of another command" in other.err
    late = bench("pretrain", *arguments(small, out, checkpoints="3"))
    assert late.code == 2
    assert "has no checkpoint of epoch 3" in late.err
    assert hash_weights(out) == before
    assert bench("pretrain", *arguments(small, out, epochs=5, fresh=True)).code == 0
    assert hash_weights(out) != before
    assert not (out / "checkpoints" / "epoch-0002").exists()


def test_a_damaged_state_is_said(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A state that cannot be read is never unpickled by force, and never overwritten."""
    out = tmp_path / "own"
    out.mkdir()
    (out / "state.pt").write_bytes(b"no state")
    run = bench("pretrain", *arguments(small, out))
    assert run.code == 2
    assert "state.pt: damaged; use --fresh to start again" in run.err
    assert (out / "state.pt").read_bytes() == b"no state"
    assert bench("pretrain", *arguments(small, out, fresh=True)).code == 0
