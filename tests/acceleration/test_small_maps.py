"""Convolutions of small maps against torch's own."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medtransfer.acceleration import small_maps
from medtransfer.acceleration.small_maps import multiply_small_maps

BF16 = torch.autocast("cpu", dtype=torch.bfloat16)


def gradients(convolution: nn.Conv2d, images: torch.Tensor):
    """Output, and gradients of images, weight and bias."""
    images = images.clone().requires_grad_()
    convolution.zero_grad()
    output = convolution(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    (output * weights).sum().backward()
    return [output, images.grad, *(parameter.grad for parameter in convolution.parameters())]


@pytest.fixture(autouse=True, scope="module")
def in_any_precision():
    """So that the sums can be compared to the last digits."""
    with pytest.MonkeyPatch.context() as patch:
        worthwhile = small_maps._worthwhile
        patch.setattr(
            small_maps,
            "_worthwhile",
            lambda images: (
                worthwhile(images) or (images.dtype == torch.float64 and images.ndim == 4)
            ),
        )
        yield


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_same_as_torch(size, kernel, stride, padding, bias, channels_last) -> None:
    """Outputs and all gradients, for any kernel, stride and padding that has an output."""
    height, width = (s + 2 * p for s, p in zip(size, padding, strict=True))
    if kernel[0] > height or kernel[1] > width:
        return
    theirs = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias, dtype=torch.float64)
    images = torch.randn((2, 3, *size), dtype=torch.float64)
    if channels_last:
        theirs.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    ours = copy.deepcopy(theirs)
    multiply_small_maps(ours)
    found = gradients(ours, images)
    for value, expected in zip(found, gradients(theirs, images), strict=True):
        torch.testing.assert_close(value, expected)
    if not channels_last:
        assert found[0].is_contiguous()


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 1},
    ],
)
def test_what_it_leaves_to_torch(options) -> None:
    """Groups, dilation, padding by name or otherwise, and one image without a batch."""
    theirs = nn.Conv2d(4, 4, 3, **options).double()
    ours = copy.deepcopy(theirs)
    multiply_small_maps(ours)
    images = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    for some in (images, images[0]):
        torch.testing.assert_close(ours(some), theirs(some))


def test_where_it_is_worthwhile(monkeypatch) -> None:
    """Training in bf16, up to four pixels of output; not prediction, nor fp32."""
    calls = []
    multiply = small_maps._multiply

    def spy(*arguments):
        output = multiply(*arguments)
        calls.append(output is not None)
        return output

    monkeypatch.setattr(small_maps, "_multiply", spy)
    convolution = nn.Conv2d(1, 1, 1)
    multiply_small_maps(convolution)
    with BF16:
        for pixels in (1, 4, 5):
            assert convolution(torch.ones(1, 1, 1, pixels)).dtype == torch.bfloat16
        with torch.inference_mode():
            convolution(torch.ones(1, 1, 1, 1))
    convolution(torch.ones(1, 1, 1, 1))
    assert calls == [True, True, False]


def test_copies_compute_with_their_own_weights() -> None:
    """A copy of the network, to be trained, does not go back to the weights of the original."""
    network = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
    multiply_small_maps(network)
    trained = copy.deepcopy(network)
    with torch.no_grad():
        trained[0].weight.zero_()
    images = torch.ones(1, 2, 1, 1)
    with BF16:
        assert not trained(images).any() and network(images).any()


def test_a_checkpointed_network_trains() -> None:
    """Gradient checkpointing computes in backward what it computed forward, to the same tensors."""
    network = timm.create_model("resnet18", num_classes=0).to(memory_format=torch.channels_last)
    network.set_grad_checkpointing(True)
    multiply_small_maps(network)
    with BF16:
        loss = network(torch.randn(2, 3, 64, 64)).sum()
    loss.backward()
    assert network.layer4[1].conv2.weight.grad is not None
