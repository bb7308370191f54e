"""Registered encoders: per-image functions under unique names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medtransfer.core.errors import InputError
from medtransfer.encoders import registry
from medtransfer.encoders.registry import registered
from medtransfer.specs.encoder import Architecture, EncoderCard
from tests.helpers.encoders import SMALL, images, load, refusal

RANDOM = sorted(name for name, entry in registered().items() if entry.card.weights.random)


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
