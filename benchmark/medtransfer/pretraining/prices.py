"""Count, not measure, the cost of training on one image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.pretraining.objectives import OBJECTIVES, Objective
from medtransfer.pretraining.plan import Plan
from medtransfer.specs.encoder import Weights


class Predictor(nn.Module):
    """Forward pass of an objective, for counting its FLOPs."""

    def __init__(self, objective: Objective) -> None:
        """Wrap ``objective``."""
        super().__init__()
        self.objective = objective

    def forward(self, pixels: Tensor) -> Tensor:
        """Apply encoder and head to images (n, C, S, S)."""
        return self.objective.predict(pixels)


def price_training(objective: Objective) -> int:
    """Count the FLOPs of training on one image, all views included; exact for trained parts.

    A frozen first part with kept output is not counted, since images pass it only once.
    """
    flops = objective.views * training_flops(Predictor(objective), **_shape(objective.encoder))
    return flops - price_beginning(objective)


def price_beginning(objective: Objective) -> int:
    """Count the FLOPs of one image's pass through the frozen first part with kept output."""
    if objective.prefix is None:
        return 0
    return forward_flops(objective.prefix.beginning(), **_shape(objective.encoder))


def _shape(encoder: Encoder) -> dict[str, int]:
    return {"channels": encoder.card.input.channels, "size": encoder.size}


def price_whole(plan: Plan) -> int:
    """Count the FLOPs of training on one image with the dropped stages."""
    card = plan.start.card
    dropped = card.architecture.drop_stages - plan.request.drop_stages
    whole = card.architecture.model_copy(update={"drop_stages": dropped})
    card = card.model_copy(update={"architecture": whole, "weights": Weights()})
    encoder = build_encoder(
        EncoderSource(card), max_size=card.input.size, device=torch.device("cpu")
    )
    return price_training(OBJECTIVES[plan.recipe.objective](encoder, plan.recipe, plan.pool))
