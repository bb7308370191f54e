"""Options, recipes and losses that `bench pretrain` refuses in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT, Bench, Small, write_card, write_npz
from tests.helpers.pretraining import arguments


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
        ({"recipe": None}, "--recipe: name one of simclr, simmim, supervised, or use --grid"),
        ({"task": None}, "--task: required; the training images"),
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
        ({"images": "61"}, "--images: 61 requested, but the sources have 60"),
        ({"images": "1"}, "--images: 1 is too few"),
        ({"trainable": "partial:layer9"}, "'layer9' names no layer with weights; did you mean"),
        ({"trainable": "partial:9"}, "9 stages, but resnet18 has 5"),
        ({"trainable": "hybrid:2:4"}, "trains a part for 4 epochs, but the whole run has 4"),
        ({"trainable": "some"}, "--trainable: 'some'; full, partial:STAGES or hybrid"),
        ({"drop_stages": 9}, "drop_stages: 9, but timm's resnet18 has 5 separable stages"),
        ({"checkpoints": "0,9"}, "--checkpoints: 9 is after the last epoch, 4"),
        ({"checkpoints": "a"}, "--checkpoints: 'a'; epochs such as 0,1,5,20"),
        ({"epochs": 0}, "--epochs: 0; a positive number"),
        ({"size": 4}, "--size: 4; 8 to 2048 pixels"),
        ({"device": "tpu"}, "--device: 'tpu' is not supported"),
        ({"nodes": 2}, "--nodes: 2, but the addresses of the others are not set"),
        ({"devices": 7}, "a batch of 60 images cannot be split evenly into 7 parts"),
        ({"recipe": "simclr", "accumulate": 2}, "compares all images of a batch"),
        ({"recipe": "own-simclr.yaml", "accumulate": 2}, "compares all images of a batch"),
        ({"accumulate": 60}, "--images: 60 is too few: 1 images per micro-batch"),
        ({"epochs": 10**9}, "--epochs: 1000000000; at most 1000000"),
        ({"task": "resized"}, "resized: its training images are the test split in_domain of phan"),
        ({"grid": "grid.yaml"}, "not with --grid; only --data, --tasks and --device go with it"),
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
    assert "the loss or a weight is not finite at step" in run.err
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
    assert "not finite at step 1 of 1" in run.err
    assert not (out / "encoder.yaml").exists()
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["epoch-0000"]
