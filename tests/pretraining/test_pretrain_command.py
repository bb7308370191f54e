"""`bench pretrain` as users run it: its encoders, stops, and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import medtransfer
from tests.conftest import ROOT, Bench, Small, spawn_bench, write_card, write_npz
from tests.helpers.pretraining import arguments, finish, hash_weights, read_card


def read_losses(folder: Path) -> np.ndarray:
    """The loss of each step."""
    return np.loadtxt(folder / "losses.csv", delimiter=",", skiprows=1)[:, 1]


def test_an_encoder_that_evaluate_takes(small: Small, tmp_path: Path, bench: Bench) -> None:
    """The folder is an encoder like anybody's; its card says what it has seen and what it cost."""
    out = tmp_path / "own"
    run = bench("pretrain", *arguments(small, out, checkpoints="0,2,4"))
    assert run.code == 0, run.err
    assert "supervised on small (60), 4 epochs, 4 steps of 60 images" in run.out
    card = read_card(out)
    pretraining = card.pretraining
    assert (card.name, pretraining.domains, pretraining.objective) == ("own", ["ct"], "supervised")
    assert card.title == "resnet_mini, supervised on small"
    assert pretraining.datasets == ["small"]  # a card without lineage is a corpus of its own
    assert pretraining.images_seen == 240
    assert pretraining.run is not None
    assert pretraining.cost.flops == pretraining.run.flops > 0
    assert pretraining.run.seconds > 0
    assert pretraining.run.share_of_full == 1
    assert pretraining.run.environment["torch"] == torch.__version__
    assert len(read_losses(out)) == 4
    assert not (out / "state.pt").exists()
    assert bench("validate", out / "encoder.yaml").code == 0

    scored = bench(
        *("evaluate", "--encoder", out, "--task", "small", "--adaptation", "linear"),
        *("--protocol", "quick", "--out", tmp_path / "results", "--jobs", 1),
        *("--tasks", small.cards, "--data", small.data),
    )
    assert scored.code == 0, scored.err

    # The trajectory: each an encoder, the last one with the final weights.
    folders = [out / "checkpoints" / f"epoch-{epoch:04d}" for epoch in (0, 2, 4)]
    seen = [read_card(folder).pretraining.images_seen for folder in folders]
    assert seen == [0, 120, 240]
    assert read_card(folders[0]).pretraining.objective == "none"
    assert hash_weights(folders[2]) == hash_weights(out)
    assert len({hash_weights(folder) for folder in folders}) == 3
    assert all(medtransfer.load_encoder(str(folder)).width == 256 for folder in folders)

    again = bench("pretrain", *arguments(small, out, checkpoints="0,2,4"))
    assert again.code == 0
    assert "there already" in again.out


def test_the_same_command_gives_the_same_weights(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """Two runs of one command agree to the last bit; another source does not."""
    for name in ("one", "two"):
        assert bench("pretrain", *arguments(small, tmp_path / name, recipe="simclr")).code == 0
    assert hash_weights(tmp_path / "one") == hash_weights(tmp_path / "two")
    few = arguments(small, tmp_path / "few", recipe="simclr", images=30)
    assert bench("pretrain", *few).code == 0
    assert hash_weights(tmp_path / "few") != hash_weights(tmp_path / "one")
    assert read_card(tmp_path / "few").pretraining.run.images == 30


def test_a_killed_run_goes_on_to_the_same_weights(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """A kill -9 at any moment, then the same command: as if nothing had happened.

    The run has two phases, and an optimiser for each.
    """
    changes = {"recipe": "simclr", "epochs": 12, "trainable": "hybrid:1:5", "images": 48}
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert bench("pretrain", *arguments(small, whole, **changes)).code == 0
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(2):
        process = spawn_bench("pretrain", *arguments(small, out, **changes))
        while process.poll() is None and not (out / "state.pt").exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0.05, 0.4))
        process.kill()
        kills += finish(process) < 0
    assert kills
    assert bench("pretrain", *arguments(small, out, **changes)).code == 0
    assert hash_weights(out) == hash_weights(whole)
    assert np.array_equal(read_losses(out), read_losses(whole))
    one, other = (read_card(folder).pretraining.run for folder in (out, whole))
    assert one is not None
    assert other is not None
    assert one.flops == other.flops


# In double precision: Adam divides gradients by their size, which makes rounding errors of fp32
# visible within a few steps, on one process with two threads as on two processes.
_DOUBLE = """
import torch
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
import medtransfer.encoders.encoder as encoder
encoder.supports_bf16 = lambda device: False
from medtransfer.cli import main
main()
"""


def test_two_processes_are_as_one(small: Small, tmp_path: Path) -> None:
    """Twenty steps on two processes have the losses of one, batch norms and negatives and all."""
    script = tmp_path / "double.py"
    script.write_text(_DOUBLE)
    settings = yaml.safe_load(
        (ROOT / "benchmark/medtransfer/pretraining/recipes/simclr.yaml").read_text()
    )
    settings["optimisation"]["clip"] = None  # torch's fused clip knows no double precision
    settings["batch"] = 12
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(settings))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for name, devices, command in (("one", 1, [sys.executable]), ("two", 2, launch)):
        options = arguments(
            small,
            tmp_path / name,
            recipe=own,
            devices=devices,
            device="cpu",
        )
        if devices == 2:
            command = [*command, "--master-port", str(29500 + os.getpid() % 1000)]
        run = subprocess.run(
            [*command, str(script), "pretrain", *options], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
    one, two = read_losses(tmp_path / "one"), read_losses(tmp_path / "two")
    assert len(one) == 20
    assert np.abs(one - two).max() < 1e-4
    final = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")]
    for key, tensor in final[0].items():
        assert torch.allclose(tensor, final[1][key], atol=1e-6), key
    assert read_card(tmp_path / "two").pretraining.run.processes == 2


def test_parts_of_a_batch_are_as_the_batch(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A batch that goes through in parts gives the same first loss, and nearly the same others."""
    for name, parts in (("whole", 1), ("parts", 3)):
        options = arguments(
            small, tmp_path / name, accumulate=parts, architecture="vit_mini", epochs=8
        )
        assert bench("pretrain", *options).code == 0
    whole, parts = read_losses(tmp_path / "whole"), read_losses(tmp_path / "parts")
    assert np.abs(whole - parts).max() < 0.05


def test_further_pretraining_of_a_part(small: Small, tmp_path: Path, bench: Bench) -> None:
    """What is frozen stays as it was, statistics included; cards add up what parents have seen."""
    parent = tmp_path / "parent"
    assert bench("pretrain", *arguments(small, parent)).code == 0
    write_npz(small.data / "other.npz")
    write_card(small.cards, "other", "other.npz", domain="oct", lineage=["elsewhere"])
    start = {"init": parent, "architecture": None, "size": None, "task": "other"}
    shares = {}
    for name, changes in {
        "full": {},
        "partial": {"trainable": "partial:2"},
        "named": {"trainable": "partial:layer4"},
        "hybrid": {"trainable": "hybrid:2:2"},
        "simplified": {"drop_stages": 1},
    }.items():
        out = tmp_path / name
        run = bench("pretrain", *arguments(small, out, **start, **changes))
        assert run.code == 0, run.err
        pretraining = read_card(out).pretraining
        assert pretraining.init == "parent"
        assert pretraining.run.overlaps == ["other", "small"]
        assert pretraining.domains == ["ct", "oct"]
        assert pretraining.datasets == ["elsewhere", "small"]
        assert pretraining.images_seen == 480
        assert pretraining.run is not None
        before = read_card(parent).pretraining.cost.flops
        assert pretraining.cost.flops == before + pretraining.run.flops
        shares[name] = pretraining.run.share_of_full
    assert shares["full"] == 1
    assert shares["named"] < shares["partial"] < shares["hybrid"] < 1
    assert shares["hybrid"] == pytest.approx((shares["partial"] + 1) / 2, abs=1e-3)
    assert shares["simplified"] < 1

    before = load_file(parent / "weights.safetensors")
    after = load_file(tmp_path / "named" / "weights.safetensors")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) != name.startswith("layer4."), name
    cut = load_file(tmp_path / "simplified" / "weights.safetensors")
    assert set(cut) == {name for name in before if not name.startswith("layer4.")}
    assert read_card(tmp_path / "simplified").architecture.drop_stages == 1
    assert medtransfer.load_encoder(str(tmp_path / "simplified")).width == 128


def test_without_augmentation_what_is_frozen_is_computed_once(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """The frozen beginning is paid for once, and the losses are those without keeping it."""
    own = tmp_path / "still.yaml"
    settings = yaml.safe_load(
        (ROOT / "benchmark/medtransfer/pretraining/recipes/supervised.yaml").read_text()
    )
    own.write_text(yaml.safe_dump({**settings, "augmentation": None, "batch": 20}))
    moving = tmp_path / "moving.yaml"
    settings["augmentation"] = {"crop": 1.0, "jitter": 0.0}
    moving.write_text(yaml.safe_dump({**settings, "batch": 20}))
    for recipe in (own, moving):
        out = tmp_path / recipe.stem
        options = arguments(small, out, recipe=recipe, trainable="partial:1", epochs=6)
        assert bench("pretrain", *options).code == 0
    still, changed = (read_card(tmp_path / name).pretraining.run for name in ("still", "moving"))
    assert still.flops < 0.7 * changed.flops
    losses = [read_losses(tmp_path / name) for name in ("still", "moving")]
    assert np.allclose(*losses, atol=0.02)


def test_mixed_sources_have_their_own_heads(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Tasks of one and of several labels, of other sizes and channels, in one run."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("val", 20), ("test", 20)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
        labels = rng.integers(0, 2, (count, 2)).astype(np.int8)
        labels[:3] = [[0, 1], [1, 0], [1, -1]]
        arrays[f"{split}_labels"] = labels
    np.savez(small.data / "several.npz", **arrays)
    write_card(small.cards, "several", "several.npz", classes=2, kind="multilabel", domain="fundus")
    out = tmp_path / "mixed"
    options = arguments(small, out, balanced=True, images="0.5")
    run = bench("pretrain", *options, "--task", "several")
    assert run.code == 0, run.err
    card = read_card(out).pretraining
    assert card.domains == ["ct", "fundus"]
    assert card.run.images == 50
    assert card.run.balanced
