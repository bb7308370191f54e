"""Optimisers of fine-tuning: layer decay, weight decay and learning-rate schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from medtransfer.adaptation.learner import Classifier
from medtransfer.adaptation.optimiser import build_optimiser
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.timm_networks import TimmNetwork
from medtransfer.specs.encoder import Architecture, EncoderCard
from tests.helpers.adaptation import TARGET, Toy, make_encoder, make_protocol


def optimiser_of(network, **changes):
    """Optimiser, schedule and parameter names of a classifier."""
    classifier = Classifier(make_encoder(network), 3, TARGET)
    settings = make_protocol(**changes).finetune
    optimiser, schedule = build_optimiser(classifier, settings, 1e-2, 20)
    names = {
        p.data_ptr(): name.removeprefix("encoder.") for name, p in classifier.named_parameters()
    }
    return optimiser, schedule, names


def settings_of(optimiser, names, key):
    return {
        names[p.data_ptr()]: group[key] for group in optimiser.param_groups for p in group["params"]
    }


def test_layer_decay_slows_early_layers() -> None:
    """The head has the full rate; each layer group before the last has 3/4 of the next one's."""
    optimiser, _, names = optimiser_of(Toy(), layer_decay=0.75)
    rates = settings_of(optimiser, names, "initial_lr")
    assert set(rates) == set(names.values())
    expected = {"stem": 0.75**2, "norm": 0.75**2, "blocks.0": 0.75, "blocks.1": 1.0}
    for name, rate in rates.items():
        layer = name.removeprefix("network.").rpartition(".")[0]
        assert rate == pytest.approx(1e-2 * expected.get(layer, 1.0)), name


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("resnet18", {}, ["conv1.weight", "bn1.weight", "bn1.bias"]),
        ("vit_tiny_patch16_224", {"img_size": 16}, ["pos_embed", "patch_embed.proj.weight"]),
        ("efficientnet_lite0", {}, ["conv_stem.weight", "bn1.weight"]),
        ("cait_xxs24_224", {"img_size": 16}, ["patch_embed.proj.weight", "pos_embed"]),
    ],
)
def test_layer_groups_are_those_of_timm(name: str, options: dict, first: list[str]) -> None:
    """Behind our wrapper a timm network has the groups that timm gives it; the stem is first."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0, **options)
    network.to_empty(device="cpu")
    expected = {
        id(p): group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(network, layer_decay=0.75)
        for p in group["params"]
    }
    encoder = Encoder(
        EncoderCard(name="timm", architecture=Architecture(timm=name)),
        TimmNetwork(network),
        identity="timm",
        size=16,
    )
    encoder.width = 8
    settings = make_protocol(layer_decay=0.75).finetune
    optimiser, _ = build_optimiser(Classifier(encoder, 3, TARGET), settings, 1e-2, 20)
    rates = {p.data_ptr(): g["initial_lr"] for g in optimiser.param_groups for p in g["params"]}
    own = {key: rates[p.data_ptr()] for key, p in network.named_parameters()}
    for key, parameter in network.named_parameters():
        assert own[key] == pytest.approx(1e-2 * expected[id(parameter)]), key
    assert [own[key] for key in first] == [min(own.values())] * len(first)
    assert min(own.values()) < 0.4e-2


def test_weight_decay_spares_biases_and_norms() -> None:
    """Only matrices and filters are decayed, the head's included."""
    optimiser, _, names = optimiser_of(Toy(), weight_decay=0.05)
    for name, decay in settings_of(optimiser, names, "weight_decay").items():
        spared = name.endswith("bias") or "norm" in name
        assert decay == (0 if spared else 0.05), name


def rates_over_time(steps=20, **changes):
    """The head's share of the learning rate at each step."""
    classifier = Classifier(make_encoder(nn.Flatten()), 3, TARGET)
    settings = make_protocol(**changes).finetune
    optimiser, schedule = build_optimiser(classifier, settings, 1e-2, steps)
    shares = []
    for _ in range(steps):
        shares.append(optimiser.param_groups[0]["lr"] / 1e-2)
        optimiser.step()
        schedule.step()
    return np.array(shares)


def test_cosine_schedule_warms_up_and_ends_near_zero() -> None:
    """A straight line up to the full rate, then half a cosine down."""
    shares = rates_over_time(200, warmup=0.1)
    np.testing.assert_allclose(shares[:20], np.arange(1, 21) / 20)
    assert shares.max() == 1
    assert (np.diff(shares[20:]) < 0).all()
    assert shares[110] == pytest.approx(0.5)
    assert 0 < shares[-1] < 1e-3
    expected = [0.5 * (1 + math.cos(math.pi * step / 200)) for step in range(200)]
    np.testing.assert_allclose(rates_over_time(200, warmup=0), expected)


def test_step_schedule_is_that_of_medmnist() -> None:
    """A tenth from the middle on, a hundredth from three quarters on."""
    shares = rates_over_time(100, schedule="steps", warmup=0)
    np.testing.assert_allclose(shares, [1.0] * 50 + [0.1] * 25 + [0.01] * 25)
