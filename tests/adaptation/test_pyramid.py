"""Pyramids: every kind of network gives four feature maps, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.adaptation.learner import PixelClassifier
from medtransfer.core.errors import InputError
from medtransfer.encoders import encoder as encoder_module
from medtransfer.encoders.encoder import Encoder, extend
from medtransfer.encoders.loading import load_encoder
from medtransfer.encoders.timm_networks import PYRAMID_STRIDES, _levels
from tests.helpers.decoders import build, encoder_of, pixels, segmenter

pytestmark = pytest.mark.usefixtures("full_precision")


class Maps(nn.Module):
    """A user's network: its maps are what a function makes of the images."""

    def __init__(self, maps: Callable[[Tensor], Any], *, fixed_size: bool = False) -> None:
        """Say whether it takes images of one size only."""
        super().__init__()
        self.maps, self.fixed_size = maps, fixed_size

    def forward(self, images: Tensor) -> Tensor:
        """The mean colour."""
        return images.mean(dim=(2, 3))

    def forward_intermediates(self, images: Tensor) -> Any:
        """Whatever the function gives."""
        return self.maps(images)


@pytest.mark.parametrize(
    ("reductions", "levels"),
    [
        ([2, 4, 8, 16, 32], [1, 2, 3, 4]),
        ([4, 8, 16, 32], [0, 1, 2, 3]),
        ([1, 2, 4, 8, 16, 32], [2, 3, 4, 5]),
        ([16] * 12, [2, 5, 8, 11]),
        ([14] * 6, [1, 2, 4, 5]),
        ([16] * 2, [0, 0, 1, 1]),
        ([8, 16, 16, 16], [0, 0, 2, 3]),
        ([16, 32, 64], [0, 0, 0, 1]),
    ],
)
def test_levels_are_the_nearest_strides_or_spread_over_depth(
    reductions: list[float], levels: list[int]
) -> None:
    """Each stride gets the map nearest to it, and maps of one stride are spread over depth."""
    assert _levels(reductions) == levels


def test_stages_of_a_convolutional_network_are_its_pyramid() -> None:
    """Where strides fit, the maps are the stages' outputs, untouched."""
    encoder = build("resnet18")
    network: Any = encoder.network.network
    stages = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        layer.register_forward_hook(lambda _module, _inputs, output: stages.append(output))
    with torch.inference_mode():
        maps = encoder.pyramid(encoder.normalise(pixels(64, 96)))
    for features, stage in zip(maps, stages, strict=True):
        torch.testing.assert_close(features, stage)


def test_blocks_of_a_transformer_are_its_pyramid() -> None:
    """A plain transformer gives four depths, after its last norm, resampled bilinearly."""
    encoder = build("vit_tiny_patch16_224")
    network: Any = encoder.network.network
    tokens = []
    for block in (2, 5, 8, 11):
        network.blocks[block].register_forward_hook(
            lambda _module, _inputs, output: tokens.append(network.norm(output))
        )
    with torch.inference_mode():
        maps = encoder.pyramid(encoder.normalise(pixels(64, 64)))
    for features, output, stride in zip(maps, tokens, PYRAMID_STRIDES, strict=True):
        grid = output[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        expected = functional.interpolate(grid, size=64 // stride, mode="bilinear")
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fixed_size", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (84, 112)])
def test_maps_of_any_stride_are_laid_where_they_belong(
    size: tuple[int, int], fixed_size: bool
) -> None:
    """On a slope every cell holds the value at its centre, or at the edge beyond it."""
    rows, columns = (torch.arange(side) + 0.5 for side in size)
    image = (rows.view(-1, 1) + 1000 * columns).expand(1, 3, *size).contiguous()
    seen = []

    def maps(images: Tensor) -> list[Tensor]:
        seen.append(images.shape[-2:])
        cells = [7, 14, 14, 28] if fixed_size and size[0] == 84 else [2, 8, 16, 16]
        return [functional.avg_pool2d(images, cell) for cell in cells]

    encoder = encoder_of(Maps(maps, fixed_size=fixed_size))
    pyramid = encoder.pyramid(image)
    assert seen == [size if fixed_size else extend(image).shape[-2:]]
    for features, stride in zip(pyramid, PYRAMID_STRIDES, strict=True):
        height, width = (-(-side // 32) * 32 // stride for side in size)
        assert features.shape == (1, 3, height, width)
        down = (torch.arange(height) + 0.5) * stride
        right = (torch.arange(width) + 0.5) * stride
        # Away from the edge, where a coarse map holds the value of its outermost cell.
        inner = [(x > 16) & (x < side - 16) for x, side in ((down, size[0]), (right, size[1]))]
        expected = down.view(-1, 1) + 1000 * right
        found = features[0, 0][inner[0]][:, inner[1]]
        torch.testing.assert_close(found, expected[inner[0]][:, inner[1]], rtol=1e-5, atol=0.1)


def test_extension_repeats_the_edge() -> None:
    """An image that 32 divides stays itself; another grows to the right and below."""
    image = pixels(64, 32)
    assert extend(image) is image
    extended = extend(image[..., :50, :20])
    assert extended.shape == (2, 3, 64, 32)
    assert torch.equal(extended[..., :50, :20], image[..., :50, :20])
    assert torch.equal(extended[..., 50:, :], extended[..., 49:50, :].expand(-1, -1, 14, -1))
    assert torch.equal(extended[..., :, 20:], extended[..., :, 19:20].expand(-1, -1, -1, 12))


def test_asking_for_channels_changes_nothing() -> None:
    """Neither the mode of a layer nor the statistics of its batch norm."""
    encoder = build()
    encoder.network.train()
    first = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert encoder.pyramid_channels == [32, 48, 192, 96]
    assert encoder.network.training and not first.training
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())


def test_pyramid_computes_in_the_encoders_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 where the hardware has it, as the embedding; maps and decoder are float32."""
    monkeypatch.setattr(encoder_module, "supports_bf16", lambda device: True)
    encoder = build()
    model = segmenter(encoder)
    types: dict[str, torch.dtype] = {}
    for part in ("encoder", "head"):
        layer = next(m for m in getattr(model, part).modules() if isinstance(m, nn.Conv2d))
        layer.register_forward_hook(lambda _m, _i, out, part=part: types.update({part: out.dtype}))
    assert model(pixels(64, 64)).dtype == torch.float32
    assert types == {"encoder": torch.bfloat16, "head": torch.float32}
    assert all(m.dtype == torch.float32 for m in encoder.pyramid(pixels(64, 64)))


def refusal(encoder: Encoder) -> str:
    """The message with which an encoder is refused for segmentation: always one line."""
    with pytest.raises(InputError) as caught:
        PixelClassifier(encoder, 2, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pixels", "random-convolutions"])
def test_encoder_without_maps_is_refused(name: str) -> None:
    """An encoder that gives one vector an image cannot tell its parts apart."""
    message = refusal(load_encoder(name, max_size=64, device="cpu"))
    reason = "no feature maps, which segmentation needs"
    assert message == f"{name}: {reason}"


def test_timm_network_without_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a network of timm's that was never given the method."""
    encoder = build()
    monkeypatch.delattr(type(encoder.network.network), "forward_intermediates")
    assert "mine: no feature maps" in refusal(encoder)


def test_wrong_maps_of_a_users_network_are_refused() -> None:
    """What a user's network returned, or why it failed, and what would be right."""
    message = refusal(encoder_of(Maps(lambda images: [images] * 3)))
    assert "mine: forward_intermediates returns shapes [(1, 3, 64, 64)," in message
    assert "four feature maps (N, C, H, W), shallow first, are expected" in message
    message = refusal(encoder_of(Maps(lambda images: [images.flatten(2)] * 4)))
    assert "returns shapes [(1, 3, 4096)," in message
    message = refusal(encoder_of(Maps(lambda images: images.no_such_thing)))
    assert "mine: feature maps of images of shape (1, 3, 64, 64) failed:" in message
