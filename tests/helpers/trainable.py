"""Networks of every kind for tests of partial fine-tuning and low-rank updates."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from medtransfer.encoders.encoder import Encoder, check_encoder
from medtransfer.encoders.timm_networks import TimmNetwork
from medtransfer.specs.encoder import Architecture, EncoderCard, Input, PretrainingCard
from medtransfer.specs.protocol import Lora, Partial, load_protocol

PROTOCOL = load_protocol("quick").model_copy(
    update={
        "partial": Partial(share=0.25),
        "lora": Lora(rank=4, alpha=8, learning_rates=[1e-2]),
    }
)
TRANSFORMER = {"embed_dim": 24, "num_heads": 2, "img_size": 32, "patch_size": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {"zero_init_last": False},  # a frozen factor of zero lets no gradient through
    "resnext26ts": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "tf_mobilenetv3_small_minimal_100": {},
    "vit_tiny_patch16_224": {**TRANSFORMER, "depth": 8},
    "beit_base_patch16_224": {**TRANSFORMER, "depth": 4},
}


def make_encoder(network: nn.Module, *, identity: str = "trainable") -> Encoder:
    card = EncoderCard(
        name="toy",
        architecture=Architecture(python="tests:toy"),
        input=Input(size=32),
        pretraining=PretrainingCard(objective="supervised"),
    )
    encoder = Encoder(card, network, identity=identity, size=32).eval()
    check_encoder(encoder)
    return encoder


def build(name: str) -> Encoder:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **ARCHITECTURES[name])
    return make_encoder(TimmNetwork(network), identity=name)
