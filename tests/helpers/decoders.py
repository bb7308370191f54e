"""Small encoders with feature maps for tests of the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medtransfer.adaptation.learner import PixelClassifier
from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.specs.encoder import RANDOM_WEIGHTS, Architecture, EncoderCard, Input
from medtransfer.specs.protocol import load_protocol

SMALL = "test_resnet"  # timm's smallest ResNet


def card(*, timm_name: str | None = None, size: int) -> EncoderCard:
    architecture = Architecture(timm=timm_name) if timm_name else Architecture(python="a:b")
    return EncoderCard(
        name="mine",
        architecture=architecture,
        input=Input(size=size, mean=[0.0] * 3, std=[1.0] * 3),
        pretraining=RANDOM_WEIGHTS,
    )


def build(name: str = SMALL, *, size: int = 64) -> Encoder:
    """A timm network with random weights."""
    located = EncoderSource(card(timm_name=name, size=size))
    return build_encoder(located, max_size=size, device=torch.device("cpu"))


def encoder_of(network: nn.Module, *, size: int = 64) -> Encoder:
    return Encoder(card(size=size), network, identity="", size=size).eval()


def pixels(*size: int, count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, *size), generator=generator) * 255


def segmenter(encoder: Encoder, *, frozen: bool = False) -> PixelClassifier:
    if frozen:
        encoder = prepare_encoder(encoder, "decoder", load_protocol("quick"), maps=True)
    return PixelClassifier(encoder, 3, seed=1)
