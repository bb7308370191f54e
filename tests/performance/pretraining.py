"""Rows of `make performance` about pre-training: what freezing a part saves, against theory.

Let F be the FLOPs of one image's forward pass and p the share of what is frozen. Training takes
3 F; with a frozen beginning p F + 3 (1 - p) F, or 3 (1 - p) F where its output is kept; with a
frozen end 3 (1 - p) F + 2 p F.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from medtransfer.acceleration.prefix import find_prefix
from medtransfer.adaptation.optimiser import build_optimiser
from medtransfer.cost.flops import forward_flops
from medtransfer.data.split import Split
from medtransfer.encoders.loading import load_encoder
from medtransfer.pretraining.freezing import Stages, choose_trainable
from medtransfer.pretraining.loader import load_step
from medtransfer.pretraining.objectives import OBJECTIVES, Predictor
from medtransfer.pretraining.pool import Pool, Source
from medtransfer.specs.pretraining import load_recipe
from medtransfer.specs.task import load_tasks
from tests.performance.measure import Measured, Row, map_images, measure

__all__ = ["ROWS"]

_ITEMS, _BATCH, _STEPS = 320, 32, 10
_FROZEN_END = ("conv1", "bn1", "layer1", "layer2", "layer3")


def _steps(name: str, stages: Stages, *, keep: bool = False) -> tuple[Callable[[], None], float]:
    """Ten steps of supervised training of some stages, and what they take by theory, of 3 F."""
    card = load_tasks()["phantom_ct"]
    labels = np.arange(_ITEMS) % 3
    split = Split(map_images(_ITEMS, 64), labels, list(map(str, labels)), "", "")
    pool = Pool((Source(card, split, np.arange(_ITEMS)),), _BATCH)
    recipe = load_recipe("supervised").model_copy(update={"augmentation": None})
    encoder = load_encoder(name, max_size=64)
    objective = OBJECTIVES[recipe.objective](encoder, recipe, pool)
    forward = forward_flops(Predictor(objective), channels=3, size=64)
    choose_trainable(encoder, stages)
    prefix = find_prefix(encoder, _ITEMS)
    share = 0.0
    if prefix is not None:
        share = forward_flops(prefix.beginning(), channels=3, size=64) / forward
    theory = (0 if keep else share / 3) + (1 - share)
    if stages == _FROZEN_END:
        choose_end = load_encoder(name, max_size=64)
        choose_trainable(choose_end, ("layer4",))
        end = find_prefix(choose_end, _ITEMS)
        assert end is not None
        share = 1 - forward_flops(end.beginning(), channels=3, size=64) / forward
        theory = (1 - share) + 2 * share / 3
    objective.prefix = prefix if keep else None
    optimiser, _ = build_optimiser(objective, recipe.optimisation, 1e-3, 1000)

    def run() -> None:
        objective.train()
        for step in range(_STEPS):
            (batch,) = load_step(pool, objective, step, None)
            optimiser.zero_grad()
            objective(batch).backward()
            optimiser.step()

    if keep:
        run()  # every image passes the beginning once
    return run, theory


def compare(name: str, stages: Stages, *, keep: bool = False) -> Measured:
    """Time of a step in part, of a full one, over what theory says: 1 where it holds."""
    full, _ = _steps(name, None)
    part, theory = _steps(name, stages, keep=keep)
    found = measure(full, (part, 1.0))
    ratios = [ratio / theory for ratio in found.values]
    return Measured(ratios, (f"{name}: by its FLOPs {theory:.2f} of full",))


def _row(what: str, name: str, stages: Stages, *, keep: bool = False) -> Row:
    return Row(
        f"pre-training {what}, {name}",
        "a step of full x its share of FLOPs",
        1.1,
        partial(compare, name, stages, keep=keep),
        most=True,
    )


ROWS = [
    _row("partial:2", "resnet18", 2),
    _row("partial:1", "resnet18", 1),
    _row("partial:1, kept beginning", "resnet18", 1, keep=True),
    _row("frozen end", "resnet18", _FROZEN_END),
    _row("partial:6", "vit_tiny", 6),
    _row("partial:6, kept beginning", "vit_tiny", 6, keep=True),
]
