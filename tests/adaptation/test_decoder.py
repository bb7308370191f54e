"""The decoder: it trains on every kind of network, and all decoders are alike."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional

from medtransfer.adaptation.decoder import Decoder
from medtransfer.adaptation.learner import PixelClassifier
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.timm_networks import PYRAMID_STRIDES, TimmNetwork
from tests.helpers.decoders import SMALL, build, card, encoder_of, pixels, segmenter

pytestmark = pytest.mark.usefixtures("full_precision")
ARCHITECTURES = [
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "efficientnet_b0",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
    "densenet121",
    "resnetv2_50x1_bit",
]
# The smallest of each family, with what lets a transformer take images that are not square.
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "convnext_atto": {},
    "efficientnet_lite0": {},
    "vit_tiny_patch16_224": {"dynamic_img_size": True},
    "swin_tiny_patch4_window7_224": {"strict_img_size": False},
    "densenet121": {},
    "resnetv2_50x1_bit": {},
}
# All sizes for the smallest network, and for the others one of each kind: square, not, and both.
FEW = [(64, 64), (64, 48), (160, 224)]
SIZES = [*FEW, (96, 96), (128, 128), (224, 224), (64, 96), (128, 96)]
CASES = [(name, size) for name in FAMILIES for size in (SIZES if name == "resnet18" else FEW)]
# Larger members as they are built for a run, and sides that 32 does not divide.
STEPS = [
    ("resnet18", (50, 128)),
    ("resnet50", (64, 64)),
    ("convnext_tiny", (100, 75)),
    ("efficientnet_b0", (96, 72)),
    ("vit_small_patch16_224", (96, 96)),
    ("vit_base_patch16_224", (64, 64)),
    ("swin_tiny_patch4_window7_224", (64, 64)),
    ("eva02_tiny_patch14_224", (84, 84)),
]


def take_step(encoder: Encoder, images: Tensor) -> None:
    """Train once on random weights, and look at the maps, the logits and the gradients."""
    model = segmenter(encoder).train()
    count, _, *size = images.shape
    maps = encoder.pyramid(encoder.normalise(images))
    sides = [-(-side // 32) * 32 for side in size]
    for features, stride, channels in zip(
        maps, PYRAMID_STRIDES, encoder.pyramid_channels, strict=True
    ):
        assert features.shape == (count, channels, sides[0] // stride, sides[1] // stride)
        assert features.dtype == torch.float32

    before = [parameter.detach().clone() for parameter in model.head.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    logits = model(images)
    assert logits.shape == (count, 3, *size)
    loss = functional.cross_entropy(logits, torch.ones(count, *size, dtype=torch.long))
    assert torch.isfinite(loss)
    loss.backward()
    for parameter in model.head.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    given = [p.grad for p in encoder.parameters() if p.grad is not None]
    # A few layers stand between the last map and the embedding alone.
    assert len(given) > 0.9 * len(list(encoder.parameters()))
    assert next(encoder.parameters()).grad is not None
    assert sum(gradient.abs().sum() for gradient in given) > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimiser.step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    after = model.head.parameters()
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("name", "size"), CASES)
def test_one_step_of_every_family(name: str, size: tuple[int, int]) -> None:
    """At every size, square or not, every layer of encoder and decoder learns from one image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=0, **FAMILIES[name])
    take_step(encoder_of(TimmNetwork(network), size=size[0]), pixels(*size, count=1))


@pytest.mark.parametrize(("name", "size"), STEPS)
def test_one_step_of_every_architecture(name: str, size: tuple[int, int]) -> None:
    """So it does in what a run builds from a name, on two images."""
    take_step(build(name, size=min(size)), pixels(*size))


def test_decoders_of_all_encoders_are_about_as_large() -> None:
    """Decoder parameter counts lie within 10 % of each other, so that the encoder decides."""
    counts = {}
    for name in ARCHITECTURES:
        with torch.device("meta"):
            network = TimmNetwork(timm.create_model(name, num_classes=0))
        encoder = Encoder(card(timm_name=name, size=224), network, identity="", size=224)
        model = PixelClassifier(encoder.to("meta"), 3, seed=0)
        counts[name] = sum(p.numel() for p in model.head.parameters())
        assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 3, 224, 224)
    assert max(counts.values()) <= 1.1 * min(counts.values()), counts


def test_decoders_start_alike() -> None:
    """A seed gives the same weights under every encoder, and leaves the random numbers alone."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (segmenter(build(name)).head for name in (SMALL, "resnet18"))
    torch.manual_seed(3)
    other = PixelClassifier(build(), 3, seed=2).head
    assert torch.equal(torch.rand(2), expected)
    for part in ("stem", "blocks", "head"):
        pairs = zip(
            first.get_submodule(part).parameters(),
            second.get_submodule(part).parameters(),
            strict=True,
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.stem[0].weight, other.stem[0].weight)


def test_scale_of_the_features_does_not_matter() -> None:
    """Encoders whose features differ by orders of magnitude get the same decoder's chance."""
    decoder = segmenter(build()).head
    generator = torch.Generator().manual_seed(0)
    pyramid = [
        torch.randn((2, channels, 64 // stride, 64 // stride), generator=generator)
        for channels, stride in zip((32, 48, 192, 96), PYRAMID_STRIDES, strict=True)
    ]
    images = pixels(64, 64) / 255
    with torch.inference_mode():
        logits = decoder(images, pyramid)
        for factor in (0.02, 50):
            scaled = decoder(images, [features * factor for features in pyramid])
            torch.testing.assert_close(scaled, logits, rtol=1e-3, atol=1e-3)
        others = decoder(images, [features.flip(-1) for features in pyramid])
    assert (others - logits).abs().mean() > 0.03


@pytest.mark.parametrize("training", [False, True])
def test_mask_of_an_image_does_not_depend_on_its_batch(training: bool) -> None:
    """A frozen encoder and group norm: an image alone gives what it gives in a batch."""
    model = segmenter(build(), frozen=True).train(training)
    images = pixels(64, 64, count=4)
    with torch.no_grad():
        together = model(images)
        torch.testing.assert_close(model(images[1:2]), together[1:2], rtol=1e-3, atol=1e-3)


def test_logits_follow_their_pixels() -> None:
    """A spot in the image changes the logits around it most: nothing is shifted or flipped."""
    model = segmenter(build(), frozen=True)
    images = pixels(50, 90, count=1).mul_(0.2)
    spotted = images.clone()
    spotted[..., 12:18, 70:76] += 150
    with torch.no_grad():
        change = (model(spotted) - model(images)).abs().sum(1)[0]
    row, column = divmod(int(change.argmax()), 90)
    assert 8 <= row <= 22 and 66 <= column <= 80


def test_frozen_encoder_stays_as_it_is() -> None:
    """In train mode too it gets no gradient, updates no statistics and stays in eval mode."""
    model = segmenter(build(), frozen=True)
    encoder = model.encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model.train()
    assert model.head.training and not any(m.training for m in encoder.network.modules())
    model(pixels(64, 64)).square().mean().backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    assert all(torch.equal(before[name], t) for name, t in encoder.state_dict().items())

    trained = segmenter(build()).train()
    assert all(m.training for m in trained.encoder.modules())
    trained(pixels(64, 64))
    after = trained.encoder.state_dict()
    assert not all(torch.equal(before[name], t) for name, t in after.items())


def test_operations_are_counted_without_numbers() -> None:
    """A frozen encoder costs one forward pass a step, the decoder and a trained encoder three."""
    encoder = build("resnet18")
    free, frozen = segmenter(encoder), segmenter(build("resnet18"), frozen=True)
    alone = forward_flops(encoder.network, channels=3, size=64)
    forward = forward_flops(free, channels=3, size=64)
    assert forward == forward_flops(frozen, channels=3, size=64) > alone
    assert training_flops(free, channels=3, size=64) == pytest.approx(3 * forward, rel=0.05)
    expected = alone + 3 * (forward - alone)
    assert training_flops(frozen, channels=3, size=64) == pytest.approx(expected, rel=0.05)
    model = segmenter(encoder).to("meta").train()
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 3, 64, 64)


def test_decoder_learns_a_mask() -> None:
    """On a frozen random encoder a few steps outline a bright disc."""
    model = segmenter(build(), frozen=True).train()
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = ((y - 12) ** 2 + (x - 19) ** 2 < 100).long().expand(2, -1, -1)
    images = pixels(64, 64) * 0.5 + 100 * mask.unsqueeze(1)
    optimiser = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    for _ in range(20):
        optimiser.zero_grad()
        functional.cross_entropy(model(images), mask).backward()
        optimiser.step()
    found = model.eval()(images).argmax(1)
    assert 2 * (found * mask).sum() / (found.sum() + mask.sum()) > 0.8


def test_levels_and_projections_must_agree() -> None:
    """A pyramid of another length is a mistake of the caller, not silently cut."""
    decoder = Decoder([8, 8, 8, 8], image_channels=3, classes=2)
    with pytest.raises(ValueError, match="shorter"):
        decoder(pixels(32, 32), [torch.zeros(2, 8, 8, 8)] * 3)
