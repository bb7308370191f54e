"""Networks and weights of timm, at their size and at another."""

from __future__ import annotations

import math
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from tests.helpers.encoders import images, load, refusal


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
