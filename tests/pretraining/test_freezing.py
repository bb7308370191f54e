"""Frozen and dropped stages: which they are, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from medtransfer.acceleration.prefix import find_prefix
from medtransfer.core.errors import InputError
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.resolution import resolve_encoder, resolve_untrained
from medtransfer.pretraining.freezing import choose_trainable
from medtransfer.pretraining.objectives import OBJECTIVES, Predictor
from medtransfer.specs.pretraining import Trainable, load_recipe
from tests.helpers.pools import draw_head, make_batch, make_encoder, make_pool


@pytest.mark.parametrize(
    ("name", "stages", "first"),
    [
        ("resnet_mini", 2, "layer3."),
        ("resnet_mini", ("layer4",), "layer4."),
        ("vit_mini", 2, "blocks.2."),
        ("vit_mini", ("blocks.3", "norm"), "blocks.3."),
    ],
)
def test_stages_are_the_deepest(name: str, stages: int | tuple[str, ...], first: str) -> None:
    """A number takes the deepest stages, with what stands behind them; names take those layers."""
    encoder = make_encoder(name)
    choose_trainable(encoder, stages)
    learns = [n for n, p in encoder.inner.named_parameters() if p.requires_grad]
    assert learns[0].startswith(first)
    names = [n for n, _ in encoder.inner.named_parameters()]
    assert learns == names[names.index(learns[0]) :]
    encoder.train()
    frozen = [m for m in encoder.inner.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in frozen:
        assert module.training == all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("layer5",), "no layer 'layer5' with weights; did you mean 'layer"),
        (("x",), "no layer 'x' with weights; known: conv1, bn1, layer1"),
        ((), "name at least one layer"),
        (5, "5 stages, but resnet18 has 5 with its stem"),
        (("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), "are the whole network"),
    ],
)
def test_stages_that_are_none_are_refused(stages: int | tuple[str, ...], message: str) -> None:
    """One line says what would be right."""
    with pytest.raises(InputError, match=message):
        choose_trainable(make_encoder(), stages)


@pytest.mark.parametrize(
    "text", ["", "half", "partial", "partial:", "partial:0", "hybrid:2", "hybrid:2:0", "full:2"]
)
def test_words_for_what_is_trained_are_checked(text: str) -> None:
    """Anything but the three forms is refused."""
    with pytest.raises(InputError, match="--trainable"):
        Trainable.read(text)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet_mini", 1), ("resnet_mini", 3), ("vit_mini", 2), ("vit_mini", 1)],
)
def test_costs_of_a_frozen_beginning_are_those_of_theory(name: str, stages: int) -> None:
    """A frozen beginning of share p costs p F, the rest 3 (1 - p) F, to within 10 %."""
    pool = make_pool(8)
    encoder = make_encoder(name, size=64)
    objective = OBJECTIVES["supervised"](encoder, load_recipe("supervised"), pool)
    shape = {"channels": 3, "size": 64}
    forward = forward_flops(Predictor(objective), **shape)
    assert training_flops(Predictor(objective), **shape) == pytest.approx(3 * forward, rel=0.1)
    choose_trainable(encoder, stages)
    prefix = find_prefix(encoder, len(pool))
    assert prefix is not None
    beginning = forward_flops(prefix.beginning(), **shape)
    measured = training_flops(Predictor(objective), **shape)
    assert 0 < beginning < forward
    assert measured == pytest.approx(beginning + 3 * (forward - beginning), rel=0.1)


def test_a_frozen_end_still_costs_its_gradients() -> None:
    """A frozen end of share p costs 2 p F, to within 10 %: gradients pass it on the way down."""
    encoder = make_encoder(size=64)
    objective = OBJECTIVES["supervised"](encoder, load_recipe("supervised"), make_pool(8))
    shape = {"channels": 3, "size": 64}
    forward = forward_flops(Predictor(objective), **shape)
    choose_trainable(encoder, ("layer4",))
    prefix = find_prefix(encoder, 8)
    assert prefix is not None
    end = forward - forward_flops(prefix.beginning(), **shape)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    choose_trainable(encoder, ("conv1", "bn1", "layer1", "layer2", "layer3"))
    measured = training_flops(Predictor(objective), **shape)
    assert measured == pytest.approx(3 * (forward - end) + 2 * end, rel=0.1)


@pytest.mark.parametrize("name", ["resnet_mini", "vit_mini"])
def test_what_is_kept_of_a_beginning_changes_nothing(name: str) -> None:
    """Losses and gradients are those of the whole network, and the beginning is passed once."""
    pool = make_pool(8)
    encoder = make_encoder(name)
    objective = OBJECTIVES["supervised"](encoder, load_recipe("supervised"), pool)
    draw_head(objective)
    choose_trainable(encoder, 1)
    batch = make_batch(pool, views=1, size=32)

    def gradients() -> list[torch.Tensor]:
        objective.zero_grad()
        objective.train()(batch).backward()
        return [p.grad.clone() for p in objective.parameters() if p.grad is not None]

    expected = gradients()
    objective.prefix = find_prefix(encoder, len(pool))
    assert objective.prefix is not None
    for _ in range(2):
        for one, other in zip(gradients(), expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    assert objective.prefix.passes == len(pool) + 1


def test_nothing_is_kept_where_the_beginning_learns() -> None:
    """Without a frozen beginning there is nothing to keep."""
    encoder = make_encoder()
    choose_trainable(encoder, ("layer1",))
    assert find_prefix(encoder, 8) is not None  # the stem
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    choose_trainable(encoder, ("conv1", "layer4"))
    assert find_prefix(encoder, 8) is None
    vit = make_encoder("vit_mini")
    choose_trainable(vit, ("pos_embed", "blocks.3"))
    assert find_prefix(vit, 8) is None


@pytest.mark.parametrize(
    "name", ["resnet_mini", "vit_mini", "convnext_atto", "swin_tiny", "resnet18"]
)
def test_dropped_stages_are_the_deepest(name: str) -> None:
    """What is left has the weights of the whole network, and fewer of them, and still pools."""
    size = 64 if name != "vit_mini" else 48
    whole, cut = make_encoder(name, size=size), make_encoder(name, size=size, drop_stages=1)
    left = cut.inner.state_dict()
    assert sum(t.numel() for t in left.values()) < sum(
        t.numel() for t in whole.inner.state_dict().values()
    )
    for key, tensor in whole.inner.state_dict().items():
        if key in left and left[key].shape == tensor.shape:
            assert torch.equal(left[key], tensor), key
    assert len(cut.pyramid_channels) == 4
    shape = {"channels": 3, "size": size}
    assert forward_flops(cut.network, **shape) < forward_flops(whole.network, **shape)


def test_more_stages_than_there_are_cannot_be_dropped() -> None:
    """At least one stage stays."""
    message = r"drop_stages: 4, but timm's vit_tiny.* has 4 separable stages"
    with pytest.raises(InputError, match=message):
        make_encoder("vit_mini", drop_stages=4)


def test_identity_of_cards_without_dropped_stages_is_as_it_was() -> None:
    """The field does not change what records of earlier versions were made with."""
    assert resolve_encoder("resnet18").identity == (
        "fde376ae5fb402fef0e7b4f5f4b076e73c2062d7b909eddb7a3897c526056a06"
    )
    card = resolve_untrained("resnet18").card
    cut = card.model_copy(
        update={"architecture": card.architecture.model_copy(update={"drop_stages": 1})}
    )
    assert (
        replace(resolve_encoder("resnet18"), card=cut).identity
        != resolve_encoder("resnet18").identity
    )
