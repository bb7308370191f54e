"""Toy encoders, small protocols and jobs for tests of adaptations."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from medtransfer.adaptation.job import Job
from medtransfer.adaptation.targets import TARGETS
from medtransfer.cost.profile import Profile
from medtransfer.encoders.encoder import Encoder, check_encoder
from medtransfer.specs.encoder import Architecture, EncoderCard, Input, PretrainingCard
from medtransfer.specs.protocol import FineTuning, Run, load_protocol

TARGET = TARGETS["multiclass"]
QUICK = load_protocol("quick")
NUMBERS = itertools.count()


class Toy(nn.Module):
    """A small convolutional network with timm's layer groups."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        """Draw the weights, always the same."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(1, 8, 5, stride=2, padding=2)
            self.norm = nn.BatchNorm2d(8)
            self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)])
            self.dropout = nn.Dropout(dropout)

    def forward(self, images):
        """Average over quarters."""
        maps = self.norm(self.stem(images)).relu()
        for block in self.blocks:
            maps = maps + block(maps).relu()
        return self.dropout(nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1))

    def group_matcher(self, coarse=False):
        """Stem, then each block."""
        return {"stem": r"^stem|^norm", "blocks": r"^blocks\.(\d+)"}


def make_encoder(network, *, objective="supervised") -> Encoder:
    """An encoder of grey 16 px images whose features are cached under a name of their own."""
    card = EncoderCard(
        name="toy",
        architecture=Architecture(python="tests:toy"),
        input=Input(size=16, channels=1, mean=[0.5], std=[0.25]),
        pretraining=PretrainingCard(objective=objective),
    )
    encoder = Encoder(card, network, identity=f"toy-{next(NUMBERS)}", size=16).eval()
    check_encoder(encoder)
    return encoder


def make_protocol(**changes):
    """The quick protocol with other settings of fine-tuning."""
    settings = {
        "budgets": {
            "10-shot": Run(draws=1, steps=12, batch=8),
            "full": Run(draws=2, steps=24, batch=8),
        },
        "learning_rates": [1e-3, 1e-2],
        "layer_decay": 1.0,
        **changes,
    }
    return QUICK.model_copy(update={"finetune": FineTuning(**settings)})


def make_job(data, *, budget="full", draw=0, encoder=None, previous=None, **changes) -> Job:
    encoder = encoder or make_encoder(Toy())
    return Job(encoder, data, make_protocol(**changes), budget, draw, previous or {})


IMAGES = Profile(forward=0, training=1, width=0)
"""With it `finetune_flops` is the number of training images."""
