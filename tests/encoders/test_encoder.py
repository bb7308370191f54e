"""Check of a network, identity of an encoder, and preprocessing of its images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from medtransfer.core.errors import InputError
from medtransfer.encoders import encoder as encoder_module
from medtransfer.encoders.encoder import check_encoder, resolve_device
from medtransfer.encoders.resolution import resolve_encoder
from tests.helpers.encoders import SCRIPT, SMALL, images, pooled, wrap, write_folder, write_script

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
    identity = resolve_encoder(str(here)).identity
    assert resolve_encoder(str(same)).identity == identity

    changes: list[dict[str, Any]] = [
        {"input": {"size": 32}},
        {"input": {"range": [0, 255]}},
        {"input": {"mean": [0.5, 0.5, 0.5]}},
        {"pooling": "max"},
        {"architecture": {"timm": SMALL, "options": {"drop_rate": 0.1}}},
    ]
    identities = {identity}
    for number, change in enumerate(changes):
        identities.add(
            resolve_encoder(str(write_folder(tmp_path / f"{number}", state, **change))).identity
        )
    identities.add(resolve_encoder(str(write_folder(tmp_path / "random", None))).identity)
    name = next(iter(state))
    changed = {**state, name: state[name] + 1}
    identities.add(resolve_encoder(str(write_folder(tmp_path / "changed", changed))).identity)
    assert len(identities) == len(changes) + 3


def test_two_names_of_one_checkpoint_are_one_encoder(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A checkpoint is its bytes, wherever it lies."""
    for name in ("a.pt", "b.pth"):
        torch.save(state, tmp_path / "saved.pt")
        (tmp_path / "saved.pt").rename(tmp_path / name)
    a, b = (resolve_encoder(str(tmp_path / name), architecture=SMALL) for name in ("a.pt", "b.pth"))
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
        identities.add(resolve_encoder(str(path)).identity)
    assert len(identities) == 2


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
