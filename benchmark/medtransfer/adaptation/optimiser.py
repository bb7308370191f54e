"""Build AdamW with layer-wise learning rates, a schedule and clipped gradients."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import nn

from medtransfer.acceleration.clipping import ClippingAdamW
from medtransfer.encoders.encoder import Encoder
from medtransfer.specs.protocol import Optimisation


class Trained(Protocol):
    """An encoder with a head."""

    @property
    def encoder(self) -> Encoder:
        """The encoder: parameters that require a gradient are trained, deeper layers faster."""

    @property
    def head(self) -> nn.Module:
        """The head, trained at the full learning rate."""


def build_optimiser(
    learner: Trained, settings: Optimisation, rate: float, steps: int
) -> tuple[ClippingAdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Build AdamW with layer-wise rate decay (Clark et al. 2020; BEiT), warm-up and schedule.

    Args:
        learner: The model; its parameters that require a gradient are trained.
        settings: Settings of the protocol or of a recipe.
        rate: Learning rate of the head.
        steps: Length of the schedule, in steps.
    """
    from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay

    head = list(learner.head.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in head if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in head if p.ndim <= 1], "weight_decay": 0.0},
    ]
    network = learner.encoder.inner
    learns = any(p.requires_grad for p in network.parameters())
    if learns and hasattr(network, "group_matcher"):
        groups += param_groups_layer_decay(
            network, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay
        )
    elif learns:  # a network without layer groups is one layer
        groups += param_groups_weight_decay(network, weight_decay=settings.weight_decay)
    for group in groups:
        group["lr"] = rate * group.pop("lr_scale", 1.0)
        group.pop("param_names", None)
    optimiser = ClippingAdamW(groups, lr=rate, clip=settings.clip)
    warmup = round(settings.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
