"""The compute profile of an encoder at its input size."""

from __future__ import annotations

from dataclasses import dataclass

from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.encoder import Encoder

__all__ = ["Profile", "profile_encoder"]


@dataclass(frozen=True)
class Profile:
    """FLOPs per image, and the width of the embedding.

    Attributes:
        forward: FLOPs of embedding one image.
        training: FLOPs of one image's forward and backward pass through the encoder.
        width: Dimensions of the embedding.
        parameters: The encoder's parameters.
    """

    forward: int
    training: int
    width: int
    parameters: int


def profile_encoder(encoder: Encoder) -> Profile:
    """Count an encoder's FLOPs at its input size."""
    shape = {"channels": encoder.card.input.channels, "size": encoder.size}
    return Profile(
        forward=forward_flops(encoder.network, **shape),
        training=training_flops(encoder.network, **shape),
        width=encoder.width,
        parameters=sum(p.numel() for p in encoder.network.parameters()),
    )
