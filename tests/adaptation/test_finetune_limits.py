"""Fine-tuning at its limits: too little memory, and losses that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medtransfer.adaptation import finetune
from medtransfer.adaptation.finetune import adapt_finetune, finetune_flops
from medtransfer.data.split import TaskData
from medtransfer.evaluation.estimate import _time_learner
from medtransfer.specs.protocol import Run
from tests.helpers.adaptation import IMAGES, Toy, make_encoder, make_job


class Fragile(nn.Module):
    """Its output becomes NaN once a gate leaves (-1, 1).

    A huge learning rate times the weight decay drives it there in the very first step.
    """

    def __init__(self) -> None:
        """Open the gates halfway; one row, since vectors are not decayed."""
        super().__init__()
        self.gates = nn.Parameter(torch.full((1, 16), 0.5))

    def forward(self, images):
        """Shift sixteen averages by their gates."""
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) + torch.atanh(self.gates)


class Crowded(Toy):
    """Has memory for a few images at a time: more of them, and a GPU's error is raised.

    Without batch norm, so that the images of a batch have nothing to do with each other.
    """

    def __init__(self, training: int, predicting: int) -> None:
        """Say how many fit."""
        super().__init__()
        self.norm = nn.Identity()
        self.fits = {True: training, False: predicting}
        self.largest = {True: 0, False: 0}

    def forward(self, images):
        """Refuse what does not fit."""
        if len(images) > self.fits[self.training]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.largest[self.training] = max(len(images), self.largest[self.training])
        return super().forward(images)


@pytest.mark.parametrize(("fits", "part"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_a_batch_is_halved_until_it_fits_into_memory(data: TaskData, fits: int, part: int) -> None:
    """The gradients of its parts add up to the batch's, so the result is that of a large memory."""
    whole, halved = (
        adapt_finetune(make_job(data, encoder=make_encoder(Crowded(training, 32))))
        for training in (99, fits)
    )
    assert (whole.micro_batch, halved.micro_batch) == (8, part)
    assert whole.images_seen == halved.images_seen
    assert whole.selected["lr"] == halved.selected["lr"]
    for name, predicted in whole.predictions.items():
        np.testing.assert_allclose(halved.predictions[name], predicted, atol=0.02)  # bf16


def test_gradients_of_parts_add_up(data: TaskData) -> None:
    """Parts of unequal size count by their size: the sum is the gradient of the batch's mean."""
    job = make_job(data, encoder=make_encoder(Crowded(99, 99)))
    pixels = torch.tensor(data.splits["train"].images[:8, None]).float()
    labels = torch.tensor(data.splits["train"].labels[:8])
    gradients = []
    for part in (8, 3):
        learner = finetune.build_learner(job).train()
        nn.init.normal_(learner.head.weight, generator=torch.Generator().manual_seed(0))
        learner.micro_batch = part
        assert finetune._backward(learner, pixels, labels)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    whole, parts = gradients
    assert (parts - whole).norm() < 0.02 * whole.norm()  # bf16


def test_parts_are_of_equal_size(data: TaskData) -> None:
    """Seven images of which three fit go through as 3, 2 and 2: batch norm needs two."""
    job = make_job(data, encoder=make_encoder(Crowded(3, 32)))
    learner = finetune.build_learner(job).train()
    learner.micro_batch, sizes = 3, []
    network = learner.encoder.network
    network.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    pixels = torch.tensor(data.splits["train"].images[:7, None]).float()
    assert finetune._backward(learner, pixels, torch.zeros(7, dtype=torch.long))
    assert sizes == [3, 2, 2]


def test_the_estimate_halves_too(data: TaskData) -> None:
    """`--dry-run` does not fail where the run itself would not."""
    encoder = make_encoder(Crowded(3, 40))
    encoder.network.fits[False] = 5
    training, prediction = _time_learner(make_job(data, encoder=encoder))
    assert training > 0 and prediction > 0


def test_what_does_not_fit_at_one_image_fails(data: TaskData) -> None:
    """Nothing is left to halve."""
    job = make_job(data, encoder=make_encoder(Crowded(0, 32)))
    with pytest.raises(torch.OutOfMemoryError):
        adapt_finetune(job)


def test_predictions_are_the_same_in_halves(data: TaskData) -> None:
    """Frozen features and predictions come from images alone, so any part of them will do."""
    whole, halved = Crowded(99, 99), Crowded(99, 99)
    encoders = [make_encoder(network) for network in (whole, halved)]
    halved.fits[False], halved.largest[False] = 7, 0
    train = data.splits["train"]
    expected, features = (make_job(data, encoder=e).features(train) for e in encoders)
    torch.testing.assert_close(features, expected, atol=0.02, rtol=0.02)  # bf16
    assert whole.largest[False] == 60 and halved.largest[False] == 7


@pytest.mark.parametrize("budget", ["10-shot", "full"])
def test_a_rate_that_goes_to_nan_is_dropped(data: TaskData, budget: str) -> None:
    """The others are still compared, and the images before the end are counted."""
    job = make_job(data, budget=budget, encoder=make_encoder(Fragile()), learning_rates=[1e-3, 1e6])
    outcome = adapt_finetune(job)
    assert not outcome.diverged
    assert outcome.selected["lr"] == 1e-3
    assert np.isfinite(outcome.predictions["in_domain"]).all()
    assert outcome.images_seen < finetune_flops(job, IMAGES)


@pytest.mark.parametrize("budget", ["10-shot", "full"])
@pytest.mark.parametrize("rates", [[1e6], [1e6, 1e7]])
def test_nan_at_every_rate_is_a_result(data: TaskData, budget: str, rates: list[float]) -> None:
    """The outcome says so, holds no probabilities, and counts what was spent."""
    job = make_job(data, budget=budget, encoder=make_encoder(Fragile()), learning_rates=rates)
    outcome = adapt_finetune(job)
    assert outcome.diverged
    assert outcome.predictions == {}
    assert 0 < outcome.images_seen < finetune_flops(job, IMAGES)
    assert outcome.parameters == outcome.trainable_parameters == 16 + (16 + 1) * 3


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("rates", [[1e6], [1e-3, 1e6]])
def test_nan_after_the_last_step_is_found(data: TaskData, rates: list[float], keep: str) -> None:
    """No loss is computed after it, so the predictions must tell."""
    run = {"full": Run(draws=1, steps=1, batch=8)}
    encoder = make_encoder(Fragile())
    job = make_job(data, encoder=encoder, learning_rates=rates, budgets=run, keep=keep)
    outcome = adapt_finetune(job)
    assert outcome.diverged == (len(rates) == 1)
    if not outcome.diverged:
        assert outcome.selected["lr"] == 1e-3
        assert np.isfinite(outcome.predictions["in_domain"]).all()
