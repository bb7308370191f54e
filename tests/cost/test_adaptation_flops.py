"""FLOPs of adaptations against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from medtransfer.adaptation.finetune import finetune_flops, profile_learner
from medtransfer.adaptation.job import Job
from medtransfer.adaptation.probes import knn_flops, linear_flops
from medtransfer.cost.profile import Profile, profile_encoder
from medtransfer.data.split import TaskData
from medtransfer.specs.protocol import FineTuning, Linear, Protocol, Run, load_protocol
from tests.helpers.cost import Filters, make_encoder

PROFILE = Profile(forward=1000, training=3000, width=8)


def make_protocol(**finetune) -> Protocol:
    settings = {
        "budgets": {
            "5-shot": Run(draws=1, steps=5, batch=4),
            "10-shot": Run(draws=1, steps=7, batch=8),
            "full": Run(draws=2, steps=9, batch=16),
        },
        "learning_rates": [1e-4, 1e-3],
        **finetune,
    }
    linear = Linear(l2=[1e-3, 1e-2, 1e-1], folds=5)
    return load_protocol("quick").model_copy(
        update={"linear": linear, "finetune": FineTuning(**settings)}
    )


def make_job(data, budget, *, draw=0, previous=None, protocol=None) -> Job:
    encoder = make_encoder(nn.Flatten())
    return Job(encoder, data, protocol or make_protocol(), budget, draw, previous or {})


@pytest.mark.parametrize("flops", [knn_flops, linear_flops])
def test_probe_flops_grow_with_the_shots(flops, data: TaskData) -> None:
    """One more shot costs at least its own forward pass.

    The full budget stands apart: its L2 is selected without folds, so with fewer problems.
    """
    images = {"1-shot": 3, "5-shot": 15, "10-shot": 30, "100-shot": 60}
    rest = [
        flops(make_job(data, budget), PROFILE) - PROFILE.forward * count
        for budget, count in images.items()
    ]
    assert rest == sorted(rest)
    assert rest[0] >= 0


def test_knn_flops_are_the_features_of_the_shots(data: TaskData) -> None:
    """A neighbour search has no training: forward passes of the shots, and nothing else."""
    assert knn_flops(make_job(data, "5-shot"), PROFILE) == 15 * PROFILE.forward


@pytest.mark.parametrize(
    ("budget", "images", "items", "rank", "problems"),
    [
        ("1-shot", 3, 3, 3, 1),
        ("10-shot", 30, 30, 8, 1 + 3 * 5),  # three L2 values in five folds, then the result
        ("full", 60 + 24, 60, 8, 3),  # each L2 value once; validation needs features too
    ],
)
def test_linear_flops_equal_a_count_by_hand(
    data: TaskData, budget: str, images: int, items: int, rank: int, problems: int
) -> None:
    """Features, the rotation to N or D axes, and 100 gradients of two products a problem."""
    gradients = problems * 100 * 2 * (2 * items * rank * 3)
    rotation = 2 * items * 8 * rank
    expected = PROFILE.forward * images + gradients + rotation
    assert linear_flops(make_job(data, budget), PROFILE) == expected


STEP, SCORE = PROFILE.training, PROFILE.forward


@pytest.mark.parametrize(
    ("budget", "changes", "expected"),
    [
        # Two learning rates on 24 shots and scored on 6, then 7 steps on all 30.
        ("10-shot", {}, 3 * 7 * 8 * STEP + 2 * 6 * SCORE),
        # At least one of a class's five shots is held out.
        ("5-shot", {}, 3 * 5 * 4 * STEP + 2 * 3 * SCORE),
        ("full", {}, 2 * 9 * 16 * STEP + 2 * 24 * SCORE),
        # A single learning rate is not selected.
        ("10-shot", {"learning_rates": [1e-3]}, 7 * 8 * STEP),
        ("full", {"learning_rates": [1e-3]}, 9 * 16 * STEP),
        # 60 images are 4 batches of 16: scored after steps 4 and 8 and after the last one.
        ("full", {"learning_rates": [1e-3], "keep": "best"}, 9 * 16 * STEP + 3 * 24 * SCORE),
        ("10-shot", {"learning_rates": [1e-3], "keep": "best"}, 7 * 8 * STEP),
    ],
)
def test_finetune_flops_equal_a_count_by_hand(data, budget, changes, expected) -> None:
    """Every training step of the selection and of the result, and every scored image."""
    job = make_job(data, budget, protocol=make_protocol(**changes))
    assert finetune_flops(job, PROFILE) == expected


def test_later_draws_at_full_train_once(data: TaskData) -> None:
    """They reuse the learning rate of draw 0, so they cost half of it and score nothing."""
    job = make_job(data, "full", draw=1, previous={"lr": 1e-3})
    assert finetune_flops(job, PROFILE) == 9 * 16 * STEP


def test_epochs_cost_whole_batches(data: TaskData) -> None:
    """Two passes over 60 images in batches of 16 are eight steps."""
    protocol = make_protocol(
        budgets={"full": Run(draws=1, epochs=2, batch=16)}, learning_rates=[1e-3]
    )
    assert finetune_flops(make_job(data, "full", protocol=protocol), PROFILE) == 8 * 16 * STEP


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten()), 1),
        (nn.Flatten(), 0),  # nothing to train below the head: no gradient of its input
        (Filters(), 0),
    ],
)
def test_a_learner_costs_its_encoder_and_its_head(
    data: TaskData, network: nn.Module, inputs: int
) -> None:
    """The head adds a product forward, one for its weights' gradient, one for its input's."""
    job = replace(make_job(data, "full"), encoder=make_encoder(network))
    alone, learner = profile_encoder(job.encoder), profile_learner(job)
    head = 2 * job.encoder.width * 3
    assert learner.forward == alone.forward + head
    assert learner.training == alone.training + head * (2 + inputs)


def test_finetune_flops_grow_with_the_shots(data: TaskData) -> None:
    """With growing steps and batches a larger budget is never cheaper."""
    counts = [
        finetune_flops(make_job(data, budget), PROFILE) for budget in ("5-shot", "10-shot", "full")
    ]
    assert counts == sorted(set(counts))
