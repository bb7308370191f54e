"""Partial fine-tuning and low-rank updates: what learns, what rests, what it costs."""

from __future__ import annotations

import pytest
import torch
from timm.layers import StdConv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medtransfer.adaptation import ADAPTATIONS
from medtransfer.adaptation.job import Job
from medtransfer.adaptation.learner import Classifier
from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.core.errors import InputError
from medtransfer.cost.profile import profile_encoder
from medtransfer.data.split import TaskData
from medtransfer.encoders.encoder import Encoder
from medtransfer.specs.protocol import OPTIONAL
from tests.helpers.trainable import ARCHITECTURES, PROTOCOL, build, make_encoder


def learning(encoder: Encoder) -> dict[str, nn.Parameter]:
    named = encoder.inner.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def draw_pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 40, 40, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("maps", [False, True], ids=["embedding", "maps"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("adaptation", OPTIONAL)
def test_what_learns_gets_a_gradient_and_the_rest_rests(
    adaptation: str, name: str, maps: bool
) -> None:
    """It starts as the encoder it was; only what is named learns; frozen batch norms stay put."""
    encoder, pixels = build(name), draw_pixels()
    before = encoder(pixels)
    encoder = prepare_encoder(encoder, adaptation, PROTOCOL, maps=maps)
    assert (encoder.eval()(pixels) - before).abs().max() < 1e-3 * before.abs().max()
    encoder.train()
    chosen = learning(encoder)
    assert chosen
    if maps:
        levels = encoder.pyramid(encoder.normalise(encoder.resample(pixels)))
        loss = torch.stack([level.square().mean() for level in levels]).sum()
    else:
        loss = encoder(pixels)[:, 0].sum()
    loss.backward()
    reached = {n for n, p in encoder.named_parameters() if p.grad is not None}
    learns = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert reached and reached <= learns
    # What makes an embedding of the deepest map is no part of the maps.
    assert reached == learns or (maps and adaptation == "partial")
    for module in encoder.modules():
        if isinstance(module, _BatchNorm):
            assert module.training == any(p.requires_grad for p in module.parameters())
    assert all("lora_" in name for name in chosen) == (adaptation == "lora")


@pytest.mark.parametrize(
    ("name", "deepest", "shallower"),
    [
        ("resnet18", ("layer4.0.", "layer4.1."), "layer3.1."),  # 2 of a stem and 8 blocks
        ("vit_tiny_patch16_224", ("blocks.6.", "blocks.7.", "norm."), "blocks.5."),  # 2 of 9
    ],
)
def test_partial_trains_the_last_quarter(
    name: str, deepest: tuple[str, ...], shallower: str
) -> None:
    """Exactly the parameters of the deepest layer groups, with the norm that follows them."""
    encoder = build(name)
    encoder = prepare_encoder(encoder, "partial", PROTOCOL, maps=False)
    names = dict(encoder.inner.named_parameters())
    assert any(name.startswith(shallower) for name in names)
    assert set(learning(encoder)) == {name for name in names if name.startswith(deepest)}


@pytest.mark.parametrize("name", ["resnet18", "resnext26ts", "vit_tiny_patch16_224"])
def test_updates_are_of_every_linear_layer_and_ungrouped_convolution(name: str) -> None:
    """Rank r takes r (in k k + out) parameters each, counted from the network's own layers."""
    encoder = build(name)
    expected = 0
    for module in encoder.inner.modules():
        if isinstance(module, nn.Linear):
            expected += 4 * (module.in_features + module.out_features)
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            area = module.kernel_size[0] * module.kernel_size[1]
            expected += 4 * (module.in_channels * area + module.out_channels)
    encoder = prepare_encoder(encoder, "lora", PROTOCOL, maps=False)
    assert sum(parameter.numel() for parameter in learning(encoder).values()) == expected


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("beit_base_patch16_224", "attn.qkv"),  # its weight is read, the layer never called
        ("tf_mobilenetv3_small_minimal_100", "conv_stem"),  # pads by the size of its input
        ("resnext26ts", "conv2_kxk.conv"),  # grouped
    ],
)
def test_layers_that_take_no_update_are_left_alone(name: str, without: str) -> None:
    """An update that is never used, or of another shape, would be counted and learn nothing."""
    encoder = build(name)
    assert any(without in key for key in dict(encoder.inner.named_modules()))
    encoder = prepare_encoder(encoder, "lora", PROTOCOL, maps=False)
    assert not any(f"{without}." in key for key in learning(encoder))


class Layers(nn.Module):
    """Four square products of an image's 48 numbers."""

    def __init__(self) -> None:
        """Without biases."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(48, 48, bias=False) for _ in range(4))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From images to the last product (N, 48)."""
        features = nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        for layer in self.layers:
            features = layer(features)
        return features


class ToldLayers(Layers):
    """The same, which tells its layers apart as timm's networks do."""

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """One group a layer."""
        return {"stem": r"^nothing", "blocks": r"^layers\.(\d+)"}


def test_costs_equal_a_count_by_hand() -> None:
    """A frozen layer below all that learns costs its forward pass; one above it a gradient more."""
    product = 2 * 48 * 48
    whole = profile_encoder(make_encoder(ToldLayers()))
    # Forward, weights' gradients, and inputs' gradients but the first.
    assert (whole.forward, whole.training) == (4 * product, (4 + 4 + 3) * product)
    encoder = make_encoder(ToldLayers())
    encoder = prepare_encoder(encoder, "partial", PROTOCOL, maps=False)
    partial = profile_encoder(encoder)
    assert (partial.forward, partial.training) == (4 * product, (4 + 1) * product)
    encoder = make_encoder(ToldLayers())
    encoder = prepare_encoder(encoder, "lora", PROTOCOL, maps=False)
    update = 2 * 48 * 4  # one of its two thin products
    lora = profile_encoder(encoder)
    assert lora.forward == 4 * (product + 2 * update)
    # Of each update both weights' gradients and the gradient between them; and, but for the first
    # layer, the input's gradient through the update and through the frozen weights.
    assert lora.training == lora.forward + 4 * 3 * update + 3 * (update + product)


class Attention(nn.Module):
    """Torch's own transformer layer, which takes a fused path in prediction."""

    def __init__(self) -> None:
        """Sixteen tokens."""
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From images to the mean token (N, 16)."""
        tokens: torch.Tensor = self.layer(self.patches(pixels).flatten(2).transpose(1, 2))
        return tokens.mean(1)


class Twice(nn.Module):
    """A layer of two names, and one of one."""

    def __init__(self) -> None:
        """The first name is never called."""
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, 4)
        self.features = nn.Sequential(self.first, nn.ReLU())
        self.head = nn.Linear(8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From images to (N, 8)."""
        embedding: torch.Tensor = self.head(self.features(pixels).mean(dim=(2, 3)))
        return embedding


def freeze(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False)


@pytest.mark.parametrize(
    ("network", "adaptation", "message"),
    [
        (Layers(), "partial", "toy: does not tell its layers apart"),
        (nn.Flatten(), "lora", "toy: no plain linear layer and no plain ungrouped"),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten()), "lora", "toy: no plain"),
        (nn.Sequential(nn.Conv2d(3, 2, 3, dilation=2), nn.Flatten()), "lora", "no plain linear"),
        (nn.Sequential(StdConv2d(3, 2, 3), nn.Flatten()), "lora", "toy: no plain"),
        (Attention(), "lora", "toy: takes another way through its layers in training"),
        (
            freeze(ToldLayers()),
            "partial",
            "toy: nothing to train: all parameters of partial are frozen",
        ),
        (
            freeze(Layers()),
            "finetune",
            "toy: nothing to train: all parameters of finetune are frozen",
        ),
        (Layers(), "decoder", "toy: no feature maps, which segmentation needs"),
    ],
)
def test_encoders_without_a_target_are_refused(
    network: nn.Module, adaptation: str, message: str
) -> None:
    """In one line, before anything runs; and the encoder itself stays as it was."""
    encoder = make_encoder(network)
    before = [parameter.requires_grad for parameter in encoder.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=message):
        prepare_encoder(encoder, adaptation, PROTOCOL, maps=adaptation == "decoder")
    assert [parameter.requires_grad for parameter in encoder.parameters()] == before
    assert torch.equal(torch.get_rng_state(), state)


def test_updates_stand_where_the_network_calls_them() -> None:
    """Of a layer under two names peft replaces the first; if the second is called, it is none."""
    encoder = prepare_encoder(make_encoder(Twice()), "lora", PROTOCOL, maps=False)
    assert {name.split(".")[0] for name in learning(encoder)} == {"head"}


@pytest.mark.parametrize(("adaptation", "moves"), [("decoder", False), ("finetune", True)])
def test_batch_norm_without_parameters_rests_with_its_encoder(adaptation: str, moves: bool) -> None:
    """A frozen encoder's statistics stay; a trained one's follow, whatever else it has fixed."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4, affine=False))
            self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward_intermediates(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            features = self.layers(pixels) + self.fixed
            return [nn.functional.avg_pool2d(features, 2**level) for level in range(4)]

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.forward_intermediates(pixels)[0].mean(dim=(2, 3))

    encoder = prepare_encoder(make_encoder(Normed()), adaptation, PROTOCOL, maps=True)
    encoder.train()
    norm = next(module for module in encoder.modules() if isinstance(module, _BatchNorm))
    assert norm.training == moves


@pytest.mark.parametrize("adaptation", [*OPTIONAL, "finetune"])
def test_what_diverges_is_recorded_with_what_it_would_train(
    data: TaskData, adaptation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers of parameters as of a run that ends well."""
    job = Job(build("vit_tiny_patch16_224"), data, PROTOCOL, "10-shot", 0, adaptation=adaptation)
    well = ADAPTATIONS[adaptation].adapt(job)
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(Classifier, "loss", lambda *_: nan)
    badly = ADAPTATIONS[adaptation].adapt(job)
    assert badly.diverged and not well.diverged
    assert badly.trainable_parameters == well.trainable_parameters
    assert badly.parameters == well.parameters
