"""Convolutions of small maps against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medtransfer.encoders.small_maps import SmallMaps


def gradients(convolution: nn.Conv2d, images: torch.Tensor, *, replaced: bool):
    """Output, and gradients of images, weight and bias."""
    images = images.clone().requires_grad_()
    convolution.zero_grad()
    if replaced:
        with SmallMaps():
            output = convolution(images)
    else:
        output = convolution(images)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    (output * weights).sum().backward()
    return [output, images.grad, *(parameter.grad for parameter in convolution.parameters())]


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
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
    convolution = nn.Conv2d(3, 5, kernel, stride, padding, bias=bias, dtype=torch.float64)
    images = torch.randn((2, 3, *size), dtype=torch.float64)
    if channels_last:
        convolution.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    expected = gradients(convolution, images, replaced=False)
    for ours, theirs in zip(gradients(convolution, images, replaced=True), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


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
    """Groups, dilation and padding by name are computed, too; so is one image without a batch."""
    convolution = nn.Conv2d(4, 4, 3, **options)
    images = torch.randn(2, 4, 2, 2)
    with SmallMaps():
        together, alone = convolution(images), convolution(images[0])
    torch.testing.assert_close(together, convolution(images))
    torch.testing.assert_close(alone, convolution(images[0]))


def test_only_small_maps_are_replaced(monkeypatch) -> None:
    """Four pixels of output are, five are not; another function never is."""
    calls, linear = [], nn.functional.linear
    monkeypatch.setattr(
        "medtransfer.encoders.small_maps.functional.linear",
        lambda *arguments: calls.append(1) or linear(*arguments),
    )
    convolution = nn.Conv2d(1, 1, 1)
    with SmallMaps():
        for pixels in (1, 4, 5):
            convolution(torch.ones(1, 1, 1, pixels))
        nn.functional.relu(torch.ones(1))
    assert len(calls) == 2
