"""Encoders: every registered one, every way to name one, and every reason to refuse one."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import socket
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from medtransfer.core.errors import InputError
from medtransfer.data.split import Split
from medtransfer.encoders import encoder as encoder_module
from medtransfer.encoders import registry
from medtransfer.encoders.encoder import Encoder, check_encoder, resolve_device
from medtransfer.encoders.features import frozen_features
from medtransfer.encoders.loading import load_encoder
from medtransfer.encoders.registry import registered
from medtransfer.encoders.resolution import dump_card, locate
from medtransfer.specs.encoder import Architecture, EncoderCard, Input, Weights
from tests.conftest import Harmful

SMALL = "test_resnet"  # timm's smallest ResNet; not one of the registered encoders
RANDOM = sorted(name for name, entry in registered().items() if entry.card.weights.random)


@pytest.fixture(autouse=True)
def unchanged_registry() -> Iterator[None]:
    """What a test registers or imports is gone after it."""
    before, modules = dict(registry._REGISTRY), set(sys.modules)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("_encoder_"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every machine, whether or not it multiplies bf16."""
    monkeypatch.setattr(encoder_module, "supports_bf16", lambda device: False)


def load(encoder: object, **options: Any) -> Encoder:
    return load_encoder(str(encoder), **{"max_size": 64, "device": "cpu", **options})


def refusal(encoder: object, **options: Any) -> str:
    """The message with which an encoder is refused: always one line."""
    with pytest.raises(InputError) as caught:
        load(encoder, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def images(count: int = 6, *, size: int = 40, colour: bool = True, seed: int = 0) -> Tensor:
    shape = (count, size, size, 3) if colour else (count, size, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def small_weights(*, seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(SMALL).state_dict()


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The weights of a small network, with its classifier."""
    return small_weights()


def first_weight(encoder: Encoder) -> Tensor:
    return next(iter(encoder.network.parameters())).detach()


# The registry.


@pytest.mark.parametrize("name", RANDOM)
def test_registered_encoder_is_a_per_image_function(name: str) -> None:
    """Every encoder gives finite vectors of length sqrt(D), the same alone and in a batch."""
    encoder = load(name)
    assert not encoder.training
    assert encoder.size == min(registered()[name].card.input.size, 64)
    batch = images()
    with torch.inference_mode():
        features = encoder(batch)
        alone = torch.cat([encoder(batch[i : i + 1]) for i in range(3)])
        shuffled = encoder(batch.flip(0)).flip(0)
        again = load(name)(batch)
    assert features.shape == (len(batch), encoder.width)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    lengths = features.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, math.sqrt(encoder.width)))
    torch.testing.assert_close(alone, features[:3], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shuffled, features, rtol=1e-3, atol=1e-3)
    assert torch.equal(again, features)


@pytest.mark.parametrize("name", ["pixels", "hog", "resnet18-28", "vit_tiny"])
def test_grey_images_equal_their_rgb_copies(name: str) -> None:
    """Whether a grey image is stored with one channel or three changes nothing."""
    encoder = load(name)
    grey = images(colour=False)
    with torch.inference_mode():
        colour = encoder(grey.unsqueeze(-1).expand(-1, -1, -1, 3))
        torch.testing.assert_close(encoder(grey), colour, rtol=1e-4, atol=1e-4)


def test_loading_leaves_the_random_numbers_alone() -> None:
    """Random weights come from a generator of their own."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load("random-convolutions")
    load("resnet18-28")
    assert torch.equal(torch.rand(2), expected)


def test_names_are_unique() -> None:
    """A second encoder of a name is refused, and a card's name is its key."""
    for name, entry in registered().items():
        assert entry.card.name == name
        with pytest.raises(InputError, match=f"encoder '{name}' is registered twice"):
            registry.register(entry.card, entry.builder)


def test_registration_says_how_the_network_is_built() -> None:
    """A card needs timm or a builder, and not both."""
    card = EncoderCard(name="new", architecture=Architecture(timm=SMALL))
    with pytest.raises(InputError, match=r"either architecture\.timm or a builder"):
        registry.register(card, nn.Flatten)
    card = EncoderCard(name="new", architecture=Architecture(python="a:b"))
    with pytest.raises(InputError, match=r"either architecture\.timm or a builder"):
        registry.register(card)


def test_unknown_encoder_is_refused_with_the_closest_name() -> None:
    """A misspelt name meets the right one."""
    assert "unknown encoder 'resnt18'; did you mean 'resnet18'?" in refusal("resnt18")


def test_architecture_goes_with_a_checkpoint_only() -> None:
    """A registered encoder has its architecture already."""
    message = refusal("resnet18", architecture="resnet18")
    assert "--architecture: only goes with a checkpoint file, not with 'resnet18'" in message


# Weights from the hub, without a network.


@pytest.mark.parametrize("name", ["resnet18-imagenet", "timm:resnet18.a1_in1k", "hf-hub:a/b"])
def test_hub_weights_without_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the message says that one is needed, at once and in one line."""
    from huggingface_hub import constants

    def unreachable(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = refusal(name)
    assert "could not be fetched" in message and "need" in message and "network" in message
    if not name.startswith("hf-hub:"):
        assert "offline, pass a checkpoint file with --architecture" in message


def test_unknown_timm_names_are_refused() -> None:
    """A misspelt architecture or tag meets the right one before anything is fetched."""
    assert "did you mean 'resnet18'?" in refusal("timm:resnt18")
    message = refusal("timm:resnet18.a1_in1")
    assert "timm has no weights" in message and "did you mean 'resnet18.a1_in1k'?" in message


# Weights of a timm network at another size.

NATIVE = {
    "resnet18": "layer3.0.conv1.weight",
    "vit_tiny_patch16_224": "blocks.5.attn.qkv.weight",
    "swin_tiny_patch4_window7_224": "layers.2.blocks.1.attn.qkv.weight",
    "eva02_tiny_patch14_224": "blocks.5.attn.proj.weight",
}


# timm's resampling of Swin's tables warns about its own use of torch; the values are tested below.
swin_warnings = pytest.mark.filterwarnings(
    "ignore:torch.searchsorted", "ignore:Using a non-tuple sequence"
)


@swin_warnings
@pytest.mark.parametrize(
    ("architecture", "suffix"),
    [*((name, ".pt") for name in NATIVE), ("vit_tiny_patch16_224", ".safetensors")],
)
def test_timm_weights_at_another_size(architecture: str, suffix: str, tmp_path: Path) -> None:
    """Every weight is the file's, position embeddings resampled, and the classifier dropped."""
    weights = {
        name: tensor.contiguous()
        for name, tensor in timm.create_model(architecture).state_dict().items()
    }
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    encoder = load(path, architecture=architecture)
    patch = 14 if "patch14" in architecture else 32
    assert encoder.size == 64 // patch * patch

    found = encoder.network.network.state_dict()  # type: ignore[union-attr]
    assert torch.equal(found[NATIVE[architecture]], weights[NATIVE[architecture]])
    for name in found.keys() & weights.keys():
        if found[name].shape == weights[name].shape:
            assert torch.equal(found[name], weights[name]), name
    if architecture.startswith(("vit", "eva")):
        side = encoder.size // (16 if architecture.startswith("vit") else 14)
        expected = resample_abs_pos_embed(weights["pos_embed"], [side, side])
        torch.testing.assert_close(found["pos_embed"], expected)
    classifier = "fc" if architecture == "resnet18" else "head"
    if architecture.startswith("swin"):
        classifier = "head.fc"
    assert not any(name.startswith(f"{classifier}.") for name in found)
    if f"{classifier}.weight" not in weights:  # EVA-02 is published without one
        assert not any("dropped" in note for note in encoder.notes)
        return
    dropped = f"dropped the checkpoint's classifier ({classifier}.bias, {classifier}.weight)"
    assert dropped in encoder.notes


@swin_warnings
def test_swins_position_tables_are_resampled(tmp_path: Path) -> None:
    """A table for smaller windows holds, for each offset, nearly the value of the larger one."""
    weights = timm.create_model("swin_tiny_patch4_window7_224").state_dict()
    offsets = torch.arange(-6.0, 7.0)
    slopes = 3 * offsets.view(13, 1) + offsets.view(1, 13)  # linear, so that interpolation is exact
    for name in weights:
        if name.endswith("relative_position_bias_table"):
            weights[name] = slopes.reshape(169, 1).repeat(1, weights[name].shape[1])
    torch.save(weights, tmp_path / "swin.pt")
    found = load(tmp_path / "swin.pt", architecture="swin_tiny_patch4_window7_224")
    tables = found.network.network.state_dict()  # type: ignore[union-attr]
    for stage, window in ((1, 7), (2, 4), (3, 2)):
        table = tables[f"layers.{stage}.blocks.1.attn.relative_position_bias_table"]
        inside = slice(7 - window, 6 + window)
        expected = slopes[inside, inside].reshape(-1, 1).expand_as(table)
        # timm spaces the offsets of the larger table by a factor of 1.01.
        torch.testing.assert_close(table, expected, rtol=0.02, atol=0.15)


def test_features_are_those_just_before_timms_classifier(tmp_path: Path) -> None:
    """At its native size a checkpoint gives what timm's own network gives."""
    network = timm.create_model("test_vit").eval()
    torch.save(network.state_dict(), tmp_path / "vit.pt")
    encoder = load(tmp_path / "vit.pt", architecture="test_vit", max_size=160)
    assert encoder.size == 160
    batch = images(3, size=160)
    cfg = network.pretrained_cfg
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    inputs = (batch.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(inputs), pre_logits=True)
        expected = expected / expected.norm(dim=1, keepdim=True) * math.sqrt(expected.shape[1])
        torch.testing.assert_close(encoder(batch), expected, rtol=1e-3, atol=1e-3)


def test_input_is_whole_patches_of_at_most_the_protocols_size() -> None:
    """The size is the card's, at most the protocol's, rounded down to whole patches."""
    assert load("vit_tiny", max_size=79).size == 64
    assert "a patch of 16 px does not fit 12 px" in refusal("vit_tiny", max_size=12)


# Forms of checkpoints.

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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
    assert "'resnet18' is the name of a shipped encoder" in message and "rename" in message


def test_any_file_name_gives_a_valid_encoder_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Long names and foreign letters become a name that a card may have."""
    for stem in ("x" * 120, "Épreuve (2) = 0.9", "___"):
        torch.save(state, tmp_path / f"{stem}.pt")
        card = locate(str(tmp_path / f"{stem}.pt"), architecture=SMALL).card
        assert EncoderCard.model_validate(card.model_dump()) == card


# Folders.


def write_folder(folder: Path, state: dict[str, Tensor] | None, **card: Any) -> Path:
    folder.mkdir()
    if state is not None:
        torch.save(state, folder / "weights.pt")
        card.setdefault("weights", {"path": "weights.pt"})
    card.setdefault("architecture", {"timm": SMALL})
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    return folder


def test_folder_with_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A folder says everything about its encoder; its name is the default."""
    folder = write_folder(tmp_path / "Mine", state, input={"size": 32}, title="My encoder")
    digest = hashlib.sha256((folder / "weights.pt").read_bytes()).hexdigest()
    plain = load(folder)
    assert (plain.card.name, plain.size, plain.card.title) == ("mine", 32, "My encoder")
    assert torch.equal(first_weight(plain), next(iter(state.values())))

    weights = {"path": "weights.pt", "sha256": digest}
    card = {**yaml.safe_load((folder / "encoder.yaml").read_text()), "weights": weights}
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    assert load(folder).identity == plain.identity
    card["weights"]["sha256"] = "0" * 64
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    assert "weights.pt: its SHA-256 is not the one in" in refusal(folder)


def test_dumped_card_is_read_back(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A card that was written is the card that is read."""
    folder = write_folder(tmp_path / "mine", state, input={"size": 32, "range": [-1, 1]})
    card = locate(str(folder)).card
    (folder / "encoder.yaml").write_text(dump_card(card))
    assert locate(str(folder)).card == card


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"weights": {"path": "../outside.pt"}}, ["weights.path: must stay inside the folder"]),
        ({"weights": {"path": "/outside.pt"}}, ["weights.path: must stay inside the folder"]),
        ({"weights": {"path": "wieghts.pt"}}, ["no such file", "did you mean 'weights.pt'?"]),
        ({"weights": {"url": "https://x/y.pt"}}, ["weights: sha256: required with url"]),
        ({"weights": {"url": "https://x", "sha256": "0" * 64}}, ["weights.url", "use path"]),
        ({"weights": {"path": "a", "hub": "b"}}, ["one of path, url, hub; found path and hub"]),
        ({"architecture": {"python": "os:getcwd"}}, ["only timm's can be named here"]),
        ({"architecture": {"timm": "resnt18"}}, ["resnt18"]),
        ({"architecture": {"timm": SMALL, "options": {"depth": 3}}}, [SMALL, "depth"]),
        ({"architecture": {"timm": SMALL, "options": {"pretrained": True}}}, ["'pretrained'"]),
        ({"architecture": {"timm": SMALL, "options": {"checkpoint_path": "x"}}}, ["under weights"]),
        ({"architecture": {"timm": SMALL, "options": {"features_only": True}}}, ["features_only"]),
        ({"inptu": {}}, ["inptu: unknown field", "did you mean 'input'?"]),
        ({"input": {"mean": [0.5]}}, ["input: mean and std: one value for each of 3 channels"]),
        ({"input": {"range": [1, 0]}}, ["input: range: [low, high] with low < high"]),
        ({"input": {"std": [1, 0, 1]}}, ["input: std: must be positive"]),
        ({"name": "Not A Name"}, ["name: "]),
    ],
)
def test_wrong_folder_is_refused(
    card: dict[str, Any], words: list[str], state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A folder is data: what it may say is bounded, and an error names its field."""
    torch.save(state, tmp_path / "outside.pt")
    message = refusal(write_folder(tmp_path / "mine", state, **card))
    for word in ("mine", *words):
        assert word in message


def test_folder_without_card_is_refused(tmp_path: Path) -> None:
    """Any other folder is not an encoder."""
    assert "a folder is an encoder when it holds encoder.yaml" in refusal(tmp_path)


# Python files.

SCRIPT = """
from torch import nn
from medtransfer import EncoderCard, register
from medtransfer.encoders.registry import built_by
from medtransfer.specs.encoder import Input

def build():
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())

register(EncoderCard(name="mine", architecture=built_by(build), input=Input(size=32)), build)
"""
SECOND = SCRIPT.partition("def")[2].replace("mine", "other")


def write_script(folder: Path, text: str, *, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_script_registers_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's encoder is loaded by the file's name, again and again, and changed in between."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = write_script(tmp_path, SCRIPT)
    first = load(path)
    assert (first.card.name, first.width, first.size) == ("mine", 48, 32)
    assert load(path).identity == first.identity
    assert "mine" not in registered()
    before = path.stat().st_mtime_ns
    write_script(tmp_path, SCRIPT.replace("Pool2d(4)", "Pool2d(2)"))
    os.utime(path, ns=(before, before))  # as quick as an editor's second save
    changed = load(path)
    assert changed.width == 12 and changed.identity != first.identity
    assert list(tmp_path.iterdir()) == [path]


def test_script_may_have_the_name_of_a_module(tmp_path: Path) -> None:
    """A file called timm.py does not take timm's place."""
    load(write_script(tmp_path, SCRIPT, name="timm.py"))
    assert sys.modules["timm"] is timm


def test_script_names_weights_beside_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    """The weights that a registered card names are loaded, not left random."""
    torch.save(state, tmp_path / "w.pt")
    card = f'name="mine", architecture=Architecture(timm="{SMALL}"), weights=Weights(path="w.pt")'
    text = (
        "from medtransfer import EncoderCard, register\n"
        "from medtransfer.specs.encoder import Architecture, Weights\n"
        f"register(EncoderCard({card}))\n"
    )
    path = write_script(tmp_path, text)
    assert torch.equal(first_weight(load(path)), next(iter(state.values())))
    before = locate(str(path)).identity
    torch.save(small_weights(seed=1), tmp_path / "w.pt")
    assert locate(str(path)).identity != before
    write_script(tmp_path, text.replace("w.pt", "../w.pt"))
    assert "weights.path: must stay inside the folder" in refusal(path)


def test_registered_card_cannot_name_a_file() -> None:
    """By its name alone an encoder has no folder in which to look for its weights."""
    registry.register(
        EncoderCard(
            name="mine", architecture=Architecture(timm=SMALL), weights=Weights(path="w.pt")
        )
    )
    assert "mine: weights.path: beside which file?" in refusal("mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["must register exactly one encoder; it registered none"]),
        (SCRIPT + "\ndef" + SECOND, ["exactly one encoder; it registered mine, other"]),
        ("1 / 0", ["failed to run: ZeroDivisionError: division by zero"]),
        ("def (", ["failed to run: SyntaxError"]),
        (SCRIPT + "\nraise ValueError('a\\nb')", ["failed to run: ValueError: a b"]),
        (SCRIPT.replace('"mine"', '"pixels"'), ["'pixels' is registered twice"]),
        (SCRIPT.replace("return nn", "nn"), ["mine: its builder returned no torch.nn.Module"]),
        (SCRIPT.replace("Pool2d(4)", "Pool2d(4, 4)"), ["mine: its builder failed: TypeError"]),
        (SCRIPT.replace(", nn.Flatten()", ""), ["mine: returns shape (32, 3, 4, 4)"]),
    ],
    ids=["none", "two", "raises", "syntax", "raises late", "taken", "None", "builder", "output"],
)
def test_wrong_script_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    """A file that registers no usable encoder is refused, and leaves nothing registered."""
    before = registered()
    message = refusal(write_script(tmp_path, text))
    for word in words:
        assert word in message
    assert registered() == before


def test_missing_script_is_refused(tmp_path: Path) -> None:
    """A file that is not there meets the closest one that is."""
    write_script(tmp_path, SCRIPT)
    assert "no such file; did you mean 'script.py'?" in refusal(tmp_path / "scrip.py")


# The check of a network.


class Network(nn.Module):
    """A network made of one function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        """Keep the function."""
        super().__init__()
        self.function = function
        self.calls = 0

    def forward(self, inputs: Tensor) -> Any:
        """Call the function and count the call."""
        self.calls += 1
        return self.function(inputs)


def wrap(function: Callable[[Tensor], Any], *, size: int = 32, **fields: Any) -> Encoder:
    """An unchecked encoder around a function of normalised images."""
    card = EncoderCard(
        name="mine",
        architecture=Architecture(python="tests:wrap"),
        input=Input(size=size, **fields),
    )
    return Encoder(card, Network(function), identity="mine", size=size).eval()


def pooled(inputs: Tensor) -> Tensor:
    return inputs.mean(dim=(2, 3))


BAD_NETWORKS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "NaN": (lambda x: pooled(x) * math.nan, ["NaN or infinite", "input.range"]),
    "infinite": (lambda x: pooled(x) / 0, ["NaN or infinite", "input.range"]),
    "scalar": (lambda x: x.mean(), ["shape () for 32 images", "(32, D), is expected"]),
    "feature map": (lambda x: x, ["(32, 3, 32, 32) for 32 images", "(32, D), is expected"]),
    "first image only": (lambda x: pooled(x)[:1], ["(1, 3) for 32 images"]),
    "width of the batch": (
        lambda x: pooled(x).repeat(1, 1 + len(x) // 32),
        ["(1, 3) for one image and (32, 6) for 32", "fixed D"],
    ),
    "squeezed": (
        lambda x: pooled(x).squeeze(),
        ["(3,) for one image and (32, 3) for 32", "fixed D"],
    ),
    "batch statistics": (
        lambda x: pooled(nn.functional.batch_norm(x, None, None, training=True).relu()),
        ["depends on its batch", "stored statistics, as eval mode does"],
    ),
    "batch statistics of vectors": (
        lambda x: nn.functional.batch_norm(pooled(x), None, None, training=True),
        ["fails on images of shape (1, 3, 32, 32)", "more than 1 value per channel"],
    ),
    "neighbours": (lambda x: pooled(x).cumsum(0), ["depends on its batch"]),
    "tuple": (lambda x: (pooled(x), x), ["returns tuple; a tensor (N, D) is expected"]),
    "dict": (lambda x: {"features": pooled(x)}, ["returns dict; a tensor (N, D) is expected"]),
    "raises": (lambda x: x @ torch.zeros(7, 7), ["fails on images of shape (32, 3, 32, 32)"]),
    "view of memory": (lambda x: x.view(len(x), -1), ["fails on images", ".reshape"]),
}


@pytest.mark.parametrize("case", BAD_NETWORKS)
def test_network_that_is_no_encoder_is_refused(case: str) -> None:
    """What is not a finite per-image vector is refused before anything is computed with it."""
    function, words = BAD_NETWORKS[case]
    with pytest.raises(InputError) as caught:
        check_encoder(wrap(function))
    message = str(caught.value)
    assert message.startswith("mine: ") and "\n" not in message
    for word in words:
        assert word in message


def test_nearly_constant_features_warn() -> None:
    """An encoder that hardly sees its input, often for a wrong range, is worth a word."""
    with pytest.warns(UserWarning, match=r"mine: features are nearly constant .*input\.range"):
        check_encoder(wrap(lambda x: pooled(x) * 1e-6 + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_encoder(encoder := wrap(pooled))
    assert encoder.width == 3


def test_precision_follows_hardware_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is used where the hardware has it and there are weights; vectors stay float32."""
    encoder = wrap(pooled)
    assert encoder.precision == "fp32"
    monkeypatch.setattr(encoder_module, "supports_bf16", lambda device: True)
    assert encoder.precision == "fp32"
    encoder.network.layer = nn.Linear(3, 3)
    assert encoder.precision == "bf16"
    network: Any = encoder.network
    network.function = lambda x: network.layer(pooled(x))
    features = encoder(images())
    assert features.dtype == torch.float32


def test_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there is refused by name; auto takes what is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match=r"--device: cuda .*no usable GPU"):
        resolve_device("cuda")


# Identity.


def test_identity_is_that_of_the_output(state: dict[str, Tensor], tmp_path: Path) -> None:
    """What decides the output enters the identity; names and words do not."""
    here = write_folder(tmp_path / "here", state, title="Here")
    same = write_folder(tmp_path / "there", state, title="There", licence="MIT", name="other")
    (same / "weights.pt").rename(same / "renamed.pt")
    card = {
        **yaml.safe_load((same / "encoder.yaml").read_text()),
        "weights": {"path": "renamed.pt"},
    }
    (same / "encoder.yaml").write_text(yaml.safe_dump(card))
    identity = locate(str(here)).identity
    assert locate(str(same)).identity == identity

    changes: list[dict[str, Any]] = [
        {"input": {"size": 32}},
        {"input": {"range": [0, 255]}},
        {"input": {"mean": [0.5, 0.5, 0.5]}},
        {"pooling": "max"},
        {"architecture": {"timm": SMALL, "options": {"drop_rate": 0.1}}},
    ]
    identities = {identity}
    for number, change in enumerate(changes):
        identities.add(locate(str(write_folder(tmp_path / f"{number}", state, **change))).identity)
    identities.add(locate(str(write_folder(tmp_path / "random", None))).identity)
    name = next(iter(state))
    changed = {**state, name: state[name] + 1}
    identities.add(locate(str(write_folder(tmp_path / "changed", changed))).identity)
    assert len(identities) == len(changes) + 3


def test_two_names_of_one_checkpoint_are_one_encoder(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A checkpoint is its bytes, wherever it lies."""
    for name in ("a.pt", "b.pth"):
        torch.save(state, tmp_path / "saved.pt")
        (tmp_path / "saved.pt").rename(tmp_path / name)
    a, b = (locate(str(tmp_path / name), architecture=SMALL) for name in ("a.pt", "b.pth"))
    assert a.card.name != b.card.name and a.identity == b.identity


def test_builders_source_enters_the_identity(tmp_path: Path) -> None:
    """Weights loaded into another network are another encoder."""
    identities = set()
    for width in (4, 8):
        text = SCRIPT.replace("nn.AdaptiveAvgPool2d(4)", f"nn.Conv2d(3, {width}, 32)").replace(
            'name="mine"', 'name="mine", weights=Weights(path="w.pt")'
        )
        text = text.replace("import Input", "import Input, Weights")
        path = write_script(tmp_path, text)
        weights = {"0.weight": torch.ones(4, 3, 32, 32), "0.bias": torch.zeros(4)}
        torch.save(weights, tmp_path / "w.pt")
        identities.add(locate(str(path)).identity)
    assert len(identities) == 2


# Preprocessing.


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1024.0, 1024.0), (-1.0, 1.0)])
def test_normalisation(bounds: tuple[float, float]) -> None:
    """Black and white become the ends of the range, then mean and std are applied."""
    low, high = bounds
    mean = [low + share * (high - low) for share in (0.4, 0.5, 0.6)]
    std = [share * (high - low) for share in (0.2, 0.25, 0.3)]
    encoder = wrap(pooled, size=16, range=bounds, mean=mean, std=std)
    batch = images(2, size=16)
    batch[0, 0, 0], batch[0, 0, 1] = 0, 255
    found = encoder.normalise(encoder.resample(batch)).permute(0, 2, 3, 1).numpy()
    pixels = low + batch.numpy().astype(np.float64) / 255 * (high - low)
    np.testing.assert_allclose(found, (pixels - mean) / std, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0, 0, 0] * std + mean, [low] * 3, atol=1e-3)
    np.testing.assert_allclose(found[0, 0, 1] * std + mean, [high] * 3, atol=1e-3)


@pytest.mark.parametrize(("native", "size"), [(40, 16), (16, 40), (40, 32), (28, 64), (50, 50)])
@pytest.mark.parametrize("colour", [False, True])
def test_resampling_is_antialiased_bicubic(native: int, size: int, colour: bool) -> None:
    """Images are resampled as Pillow does it, and stay between black and white."""
    batch = images(2, size=native, colour=colour)
    found = wrap(pooled, size=size).resample(batch).numpy()
    assert found.shape == (2, 3, size, size)
    assert found.min() >= 0 and found.max() <= 255
    channels = batch.unsqueeze(-1) if not colour else batch
    for image, result in zip(channels.numpy(), found, strict=True):
        for channel in range(3):
            plane = Image.fromarray(image[..., channel % image.shape[-1]].astype(np.float32))
            expected = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC))
            np.testing.assert_allclose(result[channel], expected.clip(0, 255), atol=0.05)


def test_images_need_not_be_square() -> None:
    """Both axes are brought to the encoder's size, each by its own factor."""
    batch = images(1, size=48, colour=False)[:, :24]
    plane = Image.fromarray(batch[0].numpy().astype(np.float32))
    expected = np.asarray(plane.resize((32, 32), Image.Resampling.BICUBIC)).clip(0, 255)
    np.testing.assert_allclose(wrap(pooled).resample(batch)[0, 0], expected, atol=0.05)


def test_colour_becomes_luma() -> None:
    """An encoder of grey images sees the luma of a colour image, as Pillow computes it."""
    encoder = wrap(pooled, size=40, channels=1, mean=[0.0], std=[1.0])
    batch = images(2)
    found = encoder.resample(batch)
    assert found.shape == (2, 1, 40, 40)
    for image, result in zip(batch.numpy(), found, strict=True):
        expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
        np.testing.assert_allclose(result[0], expected, atol=1.0)  # Pillow rounds
    grey = images(colour=False)
    torch.testing.assert_close(encoder.resample(grey)[:, 0], grey.float())


# Frozen features.


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def split_of(batch: Tensor, *, sha256: str = "data") -> Split:
    return Split(
        images=batch.numpy(),
        labels=np.zeros(len(batch), np.int64),
        ids=[str(row) for row in range(len(batch))],
        sha256=sha256,
        origin="data.npz",
    )


def test_frozen_features_are_computed_once(own_cache: Path) -> None:
    """Features are kept by encoder, size and data, and equal what the encoder returns."""
    encoder = wrap(lambda x: x[:, :, ::8, ::8].flatten(1))
    check_encoder(encoder)
    network: Any = encoder.network
    batch = images(130, size=32)  # more than one batch
    network.calls = 0
    first = frozen_features(encoder, split_of(batch))
    computed = network.calls
    assert computed == 2
    assert np.array_equal(frozen_features(encoder, split_of(batch)), first)
    assert network.calls == computed
    with torch.inference_mode():
        np.testing.assert_allclose(first, encoder(batch).numpy(), rtol=1e-5, atol=1e-6)

    calls = network.calls
    frozen_features(encoder, split_of(batch[:3], sha256="other"))
    assert network.calls == calls + 1
    encoder.identity = "another"
    frozen_features(encoder, split_of(batch[:3], sha256="other"))
    assert network.calls == calls + 2
    assert len(list(own_cache.glob("*.npy"))) == 3


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damaged_features_are_computed_again(
    own_cache: Path, damage: Callable[[Path], Any]
) -> None:
    """A damaged cache costs time, never a result."""
    encoder = wrap(pooled)
    check_encoder(encoder)
    batch = images(40, size=32)
    expected = np.array(frozen_features(encoder, split_of(batch)))
    (path,) = own_cache.glob("*.npy")
    damage(path)
    assert np.array_equal(frozen_features(encoder, split_of(batch)), expected)
    assert [file.name for file in own_cache.glob("*.npy")] == [path.name]


def test_features_of_nan_are_refused(own_cache: Path) -> None:
    """An image that breaks the encoder is named, and its features are not kept."""
    encoder = wrap(lambda x: pooled(x) / pooled(x).abs().sum(1, keepdim=True).ceil().clamp(max=1))
    encoder.width = 3
    batch = torch.zeros(3, 32, 32, dtype=torch.uint8)
    batch[:2] = 100
    encoder.mean.zero_()
    with pytest.raises(InputError, match=r"mine: NaN features for image 2 of data\.npz"):
        frozen_features(encoder, split_of(batch))
    assert not list(own_cache.glob("*.npy"))
