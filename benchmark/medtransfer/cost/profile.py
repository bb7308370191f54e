"""Cost per image of an encoder, and of the model built on it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.encoder import Encoder


@dataclass(frozen=True)
class Profile:
    """FLOPs per image, and the width of the embedding.

    Attributes:
        forward: FLOPs of a forward pass per image.
        training: FLOPs of a forward and a backward pass per image, for trainable parameters.
        width: Dimensions of the embedding.
    """

    forward: int
    training: int
    width: int


def profile_encoder(encoder: Encoder, learner: nn.Module | None = None) -> Profile:
    """Count FLOPs at an encoder's input size.

    Args:
        encoder: The encoder.
        learner: The encoder with its head. Default: the network alone.
    """
    module = learner or encoder.network
    shape = {"channels": encoder.card.input.channels, "size": encoder.size}
    return Profile(
        forward=forward_flops(module, **shape),
        training=training_flops(module, **shape),
        width=encoder.width,
    )
