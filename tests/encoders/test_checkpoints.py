"""Forms of checkpoints, and what is none."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medtransfer.encoders.resolution import resolve_encoder
from medtransfer.specs.encoder import EncoderCard
from tests.conftest import Harmful
from tests.helpers.encoders import SMALL, first_weight, load, refusal, truncate

FORMS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "flat": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "nested twice": lambda state: {"model": {"state_dict": state}},
    "module.": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "state_dict and module.": lambda state: {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}
    },
    "average first": lambda state: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "state_dict_ema": state,
    },
    "no classifier": lambda state: {k: v for k, v in state.items() if not k.startswith("fc.")},
    "no counters": lambda state: {k: v for k, v in state.items() if not k.endswith("tracked")},
    "two classes": lambda state: {
        **state,
        "fc.weight": state["fc.weight"][:2].clone(),
        "fc.bias": state["fc.bias"][:2].clone(),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_checkpoints(form: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    """However a training script nests its weights, they are found and loaded."""
    torch.save(FORMS[form](state), tmp_path / "my.pth")
    encoder = load(tmp_path / "my.pth", architecture=SMALL)
    found = encoder.network.network.state_dict()  # type: ignore[union-attr]
    for name in found:
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found[name], state[name])
    assert encoder.card.name == "my"
    assert any("dropped" in note for note in encoder.notes) == (form != "no classifier")


@pytest.mark.parametrize(
    "naming",
    [{"arch": SMALL}, {"architecture": SMALL}, {"args": argparse.Namespace(model=SMALL, lr=0.1)}],
    ids=["arch", "architecture", "args"],
)
def test_checkpoint_of_timms_training_script(
    naming: dict[str, Any], state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A training checkpoint that names its architecture needs no option."""
    path = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 3, "state_dict": state, "metric": 0.5, **naming}, path)
    encoder = load(path)
    assert encoder.card.name == "model_best"
    assert encoder.card.architecture.timm == SMALL
    assert torch.equal(first_weight(encoder), next(iter(state.values())))


def test_safetensors_may_name_the_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A safetensors file names its architecture in its metadata; its names may be wrapped."""
    tensors = {f"module.{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, tmp_path / "my.safetensors", metadata={"architecture": SMALL})
    encoder = load(tmp_path / "my.safetensors")
    assert torch.equal(first_weight(encoder), next(iter(state.values())))


def test_checkpoint_with_a_registered_encoders_architecture(tmp_path: Path) -> None:
    """The name of a registered encoder gives a checkpoint that encoder's network and input."""
    weights = load("resnet18-28").network.network.state_dict()  # type: ignore[union-attr]
    weights = {name: torch.randn_like(t) if t.ndim == 4 else t for name, t in weights.items()}
    torch.save(weights, tmp_path / "mine.pt")
    encoder = load(tmp_path / "mine.pt", architecture="resnet18-28")
    assert encoder.size == 28
    assert torch.equal(first_weight(encoder), next(iter(weights.values())))
    assert encoder.card.pretraining.objective == "unknown"  # no longer random weights
    assert encoder.card.relation("ct") is None
    del weights["layer1.0.conv1.weight"]
    torch.save(weights, tmp_path / "mine.pt")
    message = refusal(tmp_path / "mine.pt", architecture="resnet18-28")
    assert "mine.pt: does not fit the architecture: missing ['layer1.0.conv1.weight']" in message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_malicious_checkpoint_is_refused(
    legacy: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Objects in a checkpoint are refused, and nothing in them runs."""
    path, harm = tmp_path / "my.pt", tmp_path / "harm"
    content = {"state_dict": state, "config": Harmful(harm)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path, architecture=SMALL)
    assert "my.pt" in message and "never unpickled; save model.state_dict() instead" in message
    assert not harm.exists()


NO_CHECKPOINTS: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello world\n"),
    "more text": lambda path: path.write_text("cos\nsystem\n(S'true'\ntR."),
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "truncated": truncate,
    "a list": lambda path: torch.save([1, 2], path),
    "no tensors": lambda path: torch.save({"state_dict": {"a": 1}}, path),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", NO_CHECKPOINTS)
def test_not_a_checkpoint(case: str, suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    """A file that is no checkpoint is named in one line."""
    path = tmp_path / f"my{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    NO_CHECKPOINTS[case](path)
    message = refusal(path, architecture=SMALL)
    assert str(path) in message
    words = ("not a checkpoint", "no checkpoint", "holds no tensors", "not a safetensors file")
    assert any(word in message for word in words)


def test_checkpoint_of_another_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Names that do not fit are listed, and so are shapes that do not."""
    path = tmp_path / "my.pt"
    torch.save(state, path)
    message = refusal(path, architecture="test_vit")
    assert "not a checkpoint of timm's test_vit" in message
    assert "missing (" in message and "unexpected (" in message
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    torch.save({**state, name: state[name][:2]}, path)
    message = refusal(path, architecture=SMALL)
    assert f"does not fit timm's {SMALL}" in message and name in message


def test_checkpoint_needs_a_known_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A checkpoint's architecture is named, by someone, as timm names it."""
    path = tmp_path / "my.pt"
    torch.save(state, path)
    assert "does not name its architecture; add --architecture" in refusal(path)
    message = refusal(path, architecture="resnt18")
    assert "--architecture: timm has no 'resnt18'; did you mean 'resnet18'?" in message


def test_missing_checkpoint_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    """A file that is not there meets the closest one that is."""
    (tmp_path / "model.pt").touch()
    message = refusal(tmp_path / "modle.pt", architecture=SMALL)
    assert "modle.pt: no such file; did you mean 'model.pt'?" in message
    assert "no such file" in refusal(tmp_path / "absent" / "model.pt", architecture=SMALL)
    (tmp_path / "folder.pt").mkdir()
    message = refusal(tmp_path / "folder.pt", architecture=SMALL)
    assert message.endswith("folder.pt: a folder; a file is expected")


def test_checkpoint_cannot_take_a_shipped_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Results of a user's file never mix with those of a shipped encoder."""
    torch.save(state, tmp_path / "resnet18.pt")
    message = refusal(tmp_path / "resnet18.pt", architecture=SMALL)
    assert "'resnet18' is the name of a registered encoder" in message and "rename" in message


def test_any_file_name_gives_a_valid_encoder_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Long names and foreign letters become a name that a card may have."""
    for stem in ("x" * 120, "Épreuve (2) = 0.9", "___"):
        torch.save(state, tmp_path / f"{stem}.pt")
        card = resolve_encoder(str(tmp_path / f"{stem}.pt"), architecture=SMALL).card
        assert EncoderCard.model_validate(card.model_dump()) == card
