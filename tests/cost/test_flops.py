"""FLOPs of networks against published figures and counts by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.cost.profile import Profile, profile_encoder
from tests.helpers.cost import CPU, Filters, build, make_encoder


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("resnet18", 1.82),
        ("resnet50", 4.11),
        ("vit_base_patch16_224", 17.58),
        ("convnext_tiny", 4.47),
        ("efficientnet_b0", 0.39),
    ],
)
def test_forward_is_twice_the_published_macs(name: str, gmacs: float) -> None:
    """A multiplication and an addition are two FLOPs: twice timm's published GMACs at 224 px."""
    flops = forward_flops(build(name), channels=3, size=224)
    assert flops == pytest.approx(2e9 * gmacs, rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_tiny",
        "efficientnet_b0",
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "regnety_002",
    ],
)
def test_training_is_nearly_three_forward_passes(name: str) -> None:
    """Each layer's two gradients cost a forward pass each, the image's own is not needed."""
    network = build(name, num_classes=0)
    forward = forward_flops(network, channels=3, size=224)
    assert 2.8 <= training_flops(network, channels=3, size=224) / forward <= 3.05


@dataclass(frozen=True)
class Convolution:
    """A convolution and its multiplications and additions for one 12 px image, by hand."""

    layer: nn.Module
    flops: int


# 2 * output positions * kernel area * (input channels / groups) * output channels; for a transposed
# convolution the input's positions take the place of the output's.
CONVOLUTIONS = {
    "plain": Convolution(nn.Conv2d(8, 12, 3, padding=1), 2 * 12**2 * 9 * 8 * 12),
    "strided": Convolution(nn.Conv2d(8, 12, 3, stride=2, padding=1), 2 * 6**2 * 9 * 8 * 12),
    "dilated": Convolution(nn.Conv2d(8, 12, 3, dilation=2), 2 * 8**2 * 9 * 8 * 12),
    "grouped": Convolution(nn.Conv2d(8, 12, 3, padding=1, groups=4), 2 * 12**2 * 9 * 2 * 12),
    "depthwise": Convolution(nn.Conv2d(8, 8, 5, padding=2, groups=8), 2 * 12**2 * 25 * 8),
    "multiplied": Convolution(nn.Conv2d(8, 16, 3, padding=1, groups=8), 2 * 12**2 * 9 * 16),
    "transposed": Convolution(nn.ConvTranspose2d(8, 12, 2, stride=2), 2 * 12**2 * 4 * 8 * 12),
    "transposed in groups": Convolution(
        nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, groups=4), 2 * 12**2 * 9 * 2 * 12
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolutions_equal_a_count_by_hand(case: Convolution) -> None:
    """Groups divide the work of the forward pass and of both gradients alike."""
    alone = case.layer
    behind = nn.Sequential(nn.Conv2d(8, 8, 1), alone)  # so that the input's gradient is needed
    pointwise = 2 * 12**2 * 8 * 8
    counts = {"channels": 8, "size": 12}
    assert forward_flops(alone, **counts) == case.flops
    assert training_flops(alone, **counts) == 2 * case.flops
    assert training_flops(behind, **counts) == 3 * case.flops + 2 * pointwise


def test_linear_layers_equal_a_count_by_hand() -> None:
    """Two products of N x 48 by 48 x 10 and 10 x 6; the first layer's input needs no gradient."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 6))
    first, second = 2 * 48 * 10, 2 * 10 * 6
    assert forward_flops(network, channels=3, size=4) == first + second
    assert training_flops(network, channels=3, size=4) == 2 * first + 3 * second


def test_a_frozen_prefix_has_no_backward_pass() -> None:
    """What comes before the first trained layer costs its forward pass and nothing more."""
    prefix = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    network = nn.Sequential(prefix, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    first, second = 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 8 * 4
    assert training_flops(network, channels=3, size=8) == first + 2 * second
    network.requires_grad_(False)
    assert training_flops(network, channels=3, size=8) == first + second


def test_a_frozen_suffix_still_passes_the_gradient_on() -> None:
    """A frozen layer behind a trained one is charged for its input's gradient, not its weights'."""
    suffix = nn.Conv2d(8, 4, 3, padding=1).requires_grad_(False)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), suffix)
    first, second = 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 8 * 4
    assert training_flops(network, channels=3, size=8) == 2 * first + 2 * second


def test_counting_changes_nothing() -> None:
    """Counts repeat exactly; weights, statistics, mode and device of the module stay."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    network[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    counts = [f(network, channels=3, size=8) for f in (forward_flops, training_flops) * 2]
    assert counts[:2] == counts[2:]
    assert {name: tensor.device for name, tensor in network.state_dict().items()} == dict.fromkeys(
        before, CPU
    )
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [False, False] + [True] * 4
    assert torch.equal(torch.get_rng_state(), generator)


def test_tied_weights_are_counted_where_they_are_used() -> None:
    """A layer that is used twice costs twice, in the copy on the meta device as well."""
    layer = nn.Conv2d(3, 3, 3, padding=1)
    once, twice = nn.Sequential(layer), nn.Sequential(layer, layer)
    assert forward_flops(twice, channels=3, size=8) == 2 * forward_flops(once, channels=3, size=8)


def test_flops_grow_with_the_input_size() -> None:
    """Four times the pixels are four times the FLOPs of a network without a final linear layer."""
    network = build("resnet18", num_classes=0)
    small, large = (forward_flops(network, channels=3, size=size) for size in (64, 128))
    assert large == 4 * small


class Numpy(nn.Module):
    """Features that leave torch, as HOG does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Mean rows."""
        return torch.from_numpy(images.numpy().mean(axis=(1, 2)))


def test_profiles_of_encoders_without_parameters() -> None:
    """Nothing to multiply costs nothing; filters in buffers cost their forward pass only."""
    flatten, hog, filters = (
        profile_encoder(make_encoder(network)) for network in (nn.Flatten(), Numpy(), Filters())
    )
    assert flatten == Profile(forward=0, training=0, width=256)
    assert hog == Profile(forward=0, training=0, width=16)
    products = 2 * 14**2 * 9 * 5
    assert filters == Profile(forward=products, training=products, width=5)


def test_the_profile_of_an_encoder_is_that_of_its_network() -> None:
    """Counted at the encoder's size and channels."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    profile = profile_encoder(make_encoder(network, size=24))
    forward = 2 * 24**2 * 9 * 4
    assert profile == Profile(forward=forward, training=2 * forward, width=16)
