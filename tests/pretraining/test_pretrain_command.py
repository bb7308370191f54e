"""`bench pretrain` as users run it: folders, stops, several processes, and what goes wrong."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file

import medtransfer
from medtransfer.encoders.resolution import locate
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.pretraining import Grid
from tests.conftest import ROOT, Bench, Small, spawn_bench, write_card, write_npz

LEARNS = {"--architecture": "resnet_mini", "--size": 32, "--epochs": 4}


def arguments(small: Small, out: Path, **changes: object) -> list[str]:
    """The options of a short run; ``changes`` replace some, ``None`` leaves one out."""
    options: dict[str, object] = {
        "--recipe": "supervised",
        "--task": "small",
        "--tasks": small.cards,
        "--data": small.data,
        "--out": out,
        **LEARNS,
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return [
        str(part)
        for name, value in options.items()
        if value is not None
        for part in ([name] if value is True else [name, value])
    ]


def read_card(folder: Path) -> EncoderCard:
    """The card in an encoder's folder."""
    return EncoderCard.model_validate(yaml.safe_load((folder / "encoder.yaml").read_text()))


def read_losses(folder: Path) -> np.ndarray:
    """The loss of each step."""
    return np.loadtxt(folder / "losses.csv", delimiter=",", skiprows=1)[:, 1]


def hash_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for a process, and close its pipes; what it said of an error is shown."""
    _, error = process.communicate()
    if process.returncode > 0:
        print(error)
    return process.returncode


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


def write_recipe(path: Path, **changes: object) -> Path:
    settings = yaml.safe_load(
        (ROOT / "benchmark/medtransfer/pretraining/recipes/supervised.yaml").read_text()
    )
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "simcrl"}, "--recipe: unknown recipe 'simcrl'; did you mean 'simclr'?"),
        ({"recipe": None}, "--recipe: name one of simclr, simmim, supervised, or --grid"),
        ({"task": None}, "--task: name at least one task"),
        (
            {"task": "smal"},
            "unknown task 'smal'; did you mean 'small'? (cards of your own: --tasks)",
        ),
        ({"task": "small/test"}, "only training images are a source, never 'test'"),
        ({"task": "small:in_domain"}, "only training images are a source, never 'in_domain'"),
        ({"task": "thief"}, "thief: its training images are the test split in_domain of"),
        ({"task": "masks", "recipe": "supervised"}, "masks: has masks and no classes"),
        ({"architecture": None}, "--architecture: name one"),
        ({"architecture": "resnet19"}, "--architecture: timm has no 'resnet19'; did you mean"),
        ({"architecture": "resnet_mni"}, "timm has no 'resnet_mni'; did you mean 'resnet_mini'?"),
        ({"architecture": "hog"}, "--architecture: hog is built by Python code"),
        ({"init": "nothing"}, "unknown encoder 'nothing'"),
        ({"init": "vit_mini"}, "vit_mini is not of the --architecture resnet_mini"),
        ({"images": "0"}, "--images: 0; a positive number"),
        ({"images": "0.001"}, "would leave a source without any image"),
        ({"images": "many"}, "--images: 'many'; a number of images, or a fraction"),
        ({"images": "61"}, "--images: 61 are asked for, but the sources have 60"),
        ({"images": "1"}, "--images: 1 is too few"),
        ({"trainable": "partial:layer9"}, "'layer9' names no layer with weights; did you mean"),
        ({"trainable": "partial:9"}, "9 stages, but resnet18 has 5"),
        ({"trainable": "hybrid:2:4"}, "trains a part for 4 epochs, but the whole run has 4"),
        ({"trainable": "some"}, "--trainable: 'some'; full, partial:STAGES or hybrid"),
        ({"drop_stages": 9}, "drop_stages: 9, but timm's resnet18 has 5 stages"),
        ({"checkpoints": "0,9"}, "--checkpoints: 9 is after the last epoch, 4"),
        ({"checkpoints": "a"}, "--checkpoints: 'a'; epochs such as 0,1,5,20"),
        ({"epochs": 0}, "--epochs: 0; a positive number"),
        ({"size": 4}, "--size: 4; 8 to 2048 pixels"),
        ({"device": "tpu"}, "--device: 'tpu' is not supported"),
        ({"nodes": 2}, "--nodes: 2, but nothing says where the others are"),
        ({"devices": 7}, "a batch of 60 images cannot be shared out evenly to 7"),
        ({"recipe": "simclr", "accumulate": 2}, "compares all images of a batch"),
        ({"recipe": "own-simclr.yaml", "accumulate": 2}, "compares all images of a batch"),
        ({"accumulate": 60}, "--images: 60 is too few: 1 would go through at a time"),
        ({"epochs": 10**9}, "--epochs: 1000000000; 1000000 at most"),
        ({"task": "resized"}, "resized: its training images are the test split in_domain of phan"),
        ({"grid": "grid.yaml"}, "not with --grid, whose file says what is done"),
        ({"OUT": "resnet18"}, "'resnet18' is the name of a listed encoder"),
        ({"OUT": "Other Name"}, "'Other Name' is the encoder's name, too"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value),
)
def test_wrong_input_is_one_line(
    small: Small,
    tmp_path: Path,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    message: str,
) -> None:
    """Exit code 2, one line that says what would be right, and nothing written."""
    monkeypatch.chdir(tmp_path)
    npz = {"npz": "small.npz", "split": "test"}
    write_card(small.cards, "thief", "small.npz", train=npz)
    write_npz(small.data / "masks.npz", **{f"{s}_masks": None for s in ("train", "val", "test")})
    write_card(
        *(small.cards, "masks", "masks.npz"),
        kind="segmentation",
        metric="dice",
        classes=3,
    )
    phantom = {"phantom": "ct", "split": "test", "items": 90}
    write_card(small.cards, "resized", "small.npz", train=phantom)
    recipe = ROOT / "benchmark/medtransfer/pretraining/recipes/simclr.yaml"
    (tmp_path / "own-simclr.yaml").write_text(recipe.read_text())
    out = tmp_path / changes.pop("OUT", "made")
    run = bench("pretrain", *arguments(small, out, **changes))
    assert run.code == 2, run.out + run.err
    assert message in run.err
    assert len(run.err.strip().splitlines()) == 1
    assert "Traceback" not in run.err
    assert not out.exists()


def test_a_loss_that_is_no_number_ends_the_run(small: Small, tmp_path: Path, bench: Bench) -> None:
    """One line that names the step and the learning rate; there is no encoder then."""
    own = write_recipe(tmp_path / "wild.yaml", learning_rate=1e30)
    out = tmp_path / "wild"
    run = bench("pretrain", *arguments(small, out, recipe=own, epochs=30))
    assert run.code == 1
    assert "the loss or a weight is no finite number at step" in run.err
    assert "1e+30" in run.err
    assert len(run.err.strip().splitlines()) == 1
    assert not (out / "encoder.yaml").exists()
    assert torch.load(out / "state.pt", weights_only=True)["fingerprint"]


def test_weights_that_are_no_numbers_are_no_encoder(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """The update of the last step is seen by no loss; it is looked at all the same."""
    own = write_recipe(tmp_path / "wild.yaml", learning_rate=1e38)
    out = tmp_path / "wild"
    run = bench("pretrain", *arguments(small, out, recipe=own, epochs=1, checkpoints="0,1"))
    assert run.code == 1
    assert "no finite number at step 1 of 1" in run.err
    assert not (out / "encoder.yaml").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["epoch-0000"]


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
    assert "another command made" in bench("pretrain", *swapped, "--task", "small").err
    parts = arguments(small, out, epochs=1, accumulate=2)
    assert "another command made" in bench("pretrain", *parts, "--task", "other").err
    write_card(small.cards, "other", "other.npz", flip=True)
    assert "another command made" in bench("pretrain", *first, "--task", "other").err


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
    assert "holds what another command made" in other.err
    late = bench("pretrain", *arguments(small, out, checkpoints="3"))
    assert late.code == 2
    assert "was made without epoch 3" in late.err
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
    assert "state.pt: damaged; --fresh starts again" in run.err
    assert (out / "state.pt").read_bytes() == b"no state"
    assert bench("pretrain", *arguments(small, out, fresh=True)).code == 0


def test_a_grid_makes_and_evaluates_its_encoders(
    small: Small, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every encoder is made once, further runs start from their parents, one failure is said."""
    monkeypatch.chdir(tmp_path)
    grid = {
        "architectures": ["vit_mini"],
        "sources": {"home": ["small"]},
        "recipes": ["supervised", "simmim"],
        "images": [0.5, None],
        "epochs": 1,
        "size": 32,
        "evaluate": {"protocol": "quick", "tasks": ["small"], "adaptations": ["knn"],
                     "budgets": ["full"], "out": "results"},
        "adapt": [
            {"label": "onto", "source": "home", "recipe": "supervised", "onto": "home",
             "by": "simclr", "trainable": "partial:2"},
            {"label": "lost", "source": "home", "recipe": "supervised", "onto": "home",
             "by": "simclr", "trainable": "partial:nowhere"},
        ],
    }  # fmt: skip
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    options = ("--grid", path, "--tasks", small.cards, "--data", small.data)
    run = bench("pretrain", *options)
    assert run.code == 1
    assert "vit_mini-home-supervised-0.5-lost: --trainable: 'nowhere' names no layer" in run.out
    names = sorted(path.parent.name for path in (tmp_path / "encoders").glob("*/encoder.yaml"))
    # The bare architecture is evaluated at the size of those that are pre-trained.
    assert (
        read_card(tmp_path / "encoders" / names.pop(names.index("vit_mini-random"))).input.size
        == 32
    )
    assert names == sorted(
        f"vit_mini-home-{recipe}-{images}{end}"
        for recipe, ends in (("supervised", ("", "-onto")), ("simmim", ("",)))
        for images in ("0.5", "all")
        for end in ends
    )
    made = {name: hash_weights(tmp_path / "encoders" / name) for name in names}
    card = read_card(tmp_path / "encoders" / "vit_mini-home-supervised-all-onto")
    assert card.pretraining.init == "vit_mini-home-supervised-all"
    evaluated = {path.parent.name for path in (tmp_path / "results").glob("*/records.jsonl")}
    assert evaluated == {*names, "vit_mini-random"}
    again = bench("pretrain", *options)
    assert again.code == 1
    assert not list((tmp_path / "encoders").glob(".*.lock"))
    assert {name: hash_weights(tmp_path / "encoders" / name) for name in names} == made


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_grids_are_right(path: Path) -> None:
    """Their architectures, tasks and recipes exist."""
    from medtransfer.pretraining.grid import load_grid
    from medtransfer.specs.pretraining import Trainable, load_recipe
    from medtransfer.specs.task import load_suites, load_tasks

    grid = load_grid(path)
    assert {task for tasks in grid.sources.values() for task in tasks} <= set(load_tasks())
    for name in grid.architectures:
        assert locate(name).card.pretraining.objective == "none"
    for recipe in [*grid.recipes, *(further.by for further in grid.adapt)]:
        load_recipe(recipe)
    for further in grid.adapt:
        Trainable.read(further.trainable)
    assert grid.evaluate is not None
    assert set(grid.evaluate.suites) <= set(load_suites())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipes": []}, "recipes: List should have at least 1 item"),
        ({"archs": ["a"]}, "archs: unknown field"),
        ({"adapt": [{"label": "a", "source": "x", "recipe": "simclr", "onto": "home",
                     "by": "simclr"}]}, "adapt.0.source: 'x' is none of the grid's"),
        ({"adapt": [{"label": "a", "source": "home", "recipe": "simclr", "onto": "home",
                     "by": "simclr", "trainable": "hybrid:1:1"}]}, "adapt.0: --trainable: hybrid"),
        ({"sources": {"home": ["phantom_cd"]}}, "sources.home: unknown task 'phantom_cd'; did"),
        ({"recipes": ["simcrl"]}, "unknown recipe 'simcrl'; did you mean"),
        ({"architectures": ["resnet"]}, "timm has no 'resnet'; did you mean"),
        ({"evaluate": {"protocol": "quik", "suites": ["phantom"]}}, "unknown protocol 'quik'"),
        ({"evaluate": {"protocol": "quick", "suites": ["fantom"]}}, "unknown suite 'fantom'"),
        ({"evaluate": {"protocol": "quick", "suite": ["a"]}}, "suite: unknown field; did you"),
        ({"evaluate": {"protocol": "quick"}}, "evaluate: name either suites or tasks"),
        ({"evaluate": {"protocol": "quick", "tasks": ["x"]}}, "evaluate.tasks: unknown task 'x'"),
        ({"evaluate": {"protocol": "quick", "tasks": ["phantom_ct"], "adaptations": ["kmn"]}},
         "has no adaptation 'kmn'"),
    ],
)  # fmt: skip
def test_wrong_grids_are_one_line(
    tmp_path: Path, bench: Bench, change: dict[str, object], message: str
) -> None:
    """The line names the file and the field."""
    path = tmp_path / "grid.yaml"
    right = {
        "architectures": ["vit_mini"],
        "sources": {"home": ["phantom_ct"]},
        "recipes": ["simclr"],
        "epochs": 1,
    }
    Grid.model_validate(right)
    path.write_text(yaml.safe_dump(right | change))
    run = bench("pretrain", "--grid", path)
    assert run.code == 2
    assert str(path) in run.err
    assert message in run.err
