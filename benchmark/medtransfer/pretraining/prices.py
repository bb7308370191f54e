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
    """The objective's pass through the network, for counting."""

    def __init__(self, objective: Objective) -> None:
        """Take over ``objective``."""
        super().__init__()
        self.objective = objective

    def forward(self, pixels: Tensor) -> Tensor:
        """Apply encoder and head to images (n, C, S, S)."""
        return self.objective.predict(pixels)


def price_training(objective: Objective) -> int:
    """FLOPs of training on one image, all of its views included; exact for what is trained.

    A frozen beginning whose output is kept is not among them, since images do not pass it again.
    """
    flops = objective.views * training_flops(Predictor(objective), **_shape(objective.encoder))
    return flops - price_beginning(objective)


def price_beginning(objective: Objective) -> int:
    """FLOPs of one image's pass through the beginning whose output is kept."""
    if objective.prefix is None:
        return 0
    return forward_flops(objective.prefix.beginning(), **_shape(objective.encoder))


def _shape(encoder: Encoder) -> dict[str, int]:
    return {"channels": encoder.card.input.channels, "size": encoder.size}


def price_whole(plan: Plan) -> int:
    """FLOPs of training on one image with the stages that are left out."""
    card = plan.start.card
    dropped = card.architecture.drop_stages - plan.request.drop_stages
    whole = card.architecture.model_copy(update={"drop_stages": dropped})
    card = card.model_copy(update={"architecture": whole, "weights": Weights()})
    encoder = build_encoder(
        EncoderSource(card), max_size=card.input.size, device=torch.device("cpu")
    )
    return price_training(OBJECTIVES[plan.recipe.objective](encoder, plan.recipe, plan.pool))
