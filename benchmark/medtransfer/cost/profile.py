"""Cost of one image, in an encoder and in the model built on it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.encoder import Encoder


@dataclass(frozen=True)
class Profile:
    """FLOPs per image, and the width of the embedding.

    Attributes:
        forward: FLOPs of one image's forward pass.
        training: FLOPs of one image's forward and backward pass, for what requires a gradient.
        width: Dimensions of the embedding.
    """

    forward: int
    training: int
    width: int


def profile_encoder(encoder: Encoder, learner: nn.Module | None = None) -> Profile:
    """Count FLOPs at an encoder's input size.

    Args:
        encoder: The encoder.
        learner: The encoder with what is built on it; default is the network alone.
    """
    module = learner or encoder.network
    shape = {"channels": encoder.card.input.channels, "size": encoder.size}
    return Profile(
        forward=forward_flops(module, **shape),
        training=training_flops(module, **shape),
        width=encoder.width,
    )
