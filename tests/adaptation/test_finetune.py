"""Fine-tuning: selection of the learning rate, epochs and steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medtransfer.adaptation import ADAPTATIONS, finetune
from medtransfer.adaptation.finetune import adapt_finetune, finetune_flops
from medtransfer.adaptation.learner import Classifier
from medtransfer.cost.profile import Profile
from medtransfer.data.draws import hold_out
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.protocol import Run
from medtransfer.specs.task import load_card
from tests.conftest import Small, write_npz
from tests.helpers.adaptation import IMAGES, TARGET, Toy, make_encoder, make_job


def test_finetuning_learns(data: TaskData) -> None:
    """Where the class is plain to see, trained networks are far above chance, in both splits."""
    run = {"full": Run(draws=1, steps=60, batch=16)}
    outcome = adapt_finetune(make_job(data, budgets=run, learning_rates=[1e-2]))
    labels = data.splits["in_domain"].labels
    assert TARGET.primary(outcome.predictions["in_domain"], labels) > 0.9
    assert (outcome.predictions["in_domain"].argmax(axis=1) == labels).mean() > 0.7
    np.testing.assert_array_equal(outcome.predictions["in_domain"], outcome.predictions["again"])


@pytest.mark.parametrize("budget", ["10-shot", "full"])
def test_finetuning_repeats_exactly(data: TaskData, budget: str) -> None:
    """The same cell gives the same bits, dropout included; another draw gives others.

    The global generator neither decides them nor is it moved.
    """
    encoder = make_encoder(Toy(dropout=0.3))
    rows = []
    for seed, draw in enumerate((0, 0, 1)):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        job = make_job(data, budget=budget, draw=draw, encoder=encoder)
        rows.append(adapt_finetune(job).predictions["in_domain"])
        assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])


@pytest.mark.parametrize("name", ["knn", "linear", "finetune"])
def test_the_encoder_is_not_changed(data: TaskData, name: str) -> None:
    """It goes on to the next cell: weights, statistics and mode stay as they were."""
    encoder = make_encoder(Toy())
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    ADAPTATIONS[name].adapt(make_job(data, budget="10-shot", encoder=encoder))
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())
    assert not encoder.training
    assert all(p.grad is None for p in encoder.parameters())


SCORED = Profile(forward=1, training=0, width=0)
"""With it `finetune_flops` is the number of images scored for selection."""


@pytest.mark.parametrize(
    ("budget", "changes", "images", "scored"),
    [
        ("10-shot", {}, 3 * 12 * 8, 2 * 6),  # 24 shots at two rates, then all 30
        ("full", {}, 2 * 24 * 8, 2 * 24),
        ("10-shot", {"learning_rates": [1e-3]}, 12 * 8, 0),
        ("full", {"learning_rates": [1e-3]}, 24 * 8, 0),
        ("full", {"learning_rates": [1e-3], "keep": "best"}, 24 * 8, 3 * 24),
        ("full", {"keep": "best"}, 2 * 24 * 8, 2 * (3 + 1) * 24),
        # Batches of 7 from 60 images: 9 a pass.
        ("full", {"budgets": {"full": Run(draws=1, epochs=2, batch=7)}}, 2 * 18 * 7, 2 * 24),
        # A batch larger than the 24 and 30 shots: one step a pass.
        ("10-shot", {"budgets": {"10-shot": Run(draws=1, epochs=2, batch=64)}}, 6 * 64, 2 * 6),
    ],
)
def test_images_are_counted_as_the_flops_say(
    data: TaskData, monkeypatch, budget, changes, images, scored
) -> None:
    """What training counts is what was announced before it, and what was read from the split."""
    seen = []
    predict = Classifier.predict

    def spy(self, split, items=None):
        if split is not data.splits["in_domain"] and split is not data.splits["again"]:
            seen.append(len(split) if items is None else len(items))
        return predict(self, split, items)

    monkeypatch.setattr(Classifier, "predict", spy)
    job = make_job(data, budget=budget, **changes)
    assert adapt_finetune(job).images_seen == finetune_flops(job, IMAGES) == images
    assert sum(seen) == finetune_flops(job, SCORED) == scored


def spy_on_training(monkeypatch):
    """Learning rate and items of each training that is run from now on."""
    trained = []
    train = finetune._train

    def spy(job, items, rate, *, micro_batch):
        trained.append((rate, items.tolist()))
        return train(job, items, rate, micro_batch=micro_batch)

    monkeypatch.setattr(finetune, "_train", spy)
    return trained


def test_few_shots_are_split_and_then_refitted(data: TaskData, monkeypatch) -> None:
    """Every rate is trained on the same 80 % of the shots, the best one again on all of them."""
    trained = spy_on_training(monkeypatch)
    job = make_job(data, budget="10-shot")
    selected = adapt_finetune(job).selected
    fitted = job.items[~hold_out(job.labels, 0.2)].tolist()
    assert len(fitted) == 24
    assert trained == [(1e-3, fitted), (1e-2, fitted), (selected["lr"], job.items.tolist())]


def test_the_rate_with_the_best_score_is_selected(data: TaskData) -> None:
    """The validation AUROC decides, and equal ones by the log loss."""
    job = make_job(data, learning_rates=[1e-9, 1e-2])
    validation = data.splits["validation"]
    scores = {}
    for rate in (1e-9, 1e-2):
        classifier, _ = finetune._train(job, job.items, rate)
        probabilities = classifier.predict(validation)
        scores[rate] = TARGET.primary(probabilities, validation.labels)
    assert scores[1e-9] < scores[1e-2]
    selected = adapt_finetune(job).selected
    assert (selected["lr"], selected["validation"]) == (1e-2, scores[1e-2])


def test_later_draws_at_full_reuse_the_learning_rate(data: TaskData, monkeypatch) -> None:
    """Draws 1 and 2 train once, at the rate that draw 0 selected."""
    trained = spy_on_training(monkeypatch)
    job = make_job(data, draw=1, previous={"lr": 1e-2, "validation": 0.9})
    outcome = adapt_finetune(job)
    assert [rate for rate, _ in trained] == [1e-2]
    assert outcome.selected == {"lr": 1e-2}
    assert outcome.images_seen == finetune_flops(job, IMAGES) == 24 * 8


@pytest.mark.parametrize("options", [{"budget": "10-shot", "draw": 1}, {"draw": 0}])
def test_other_draws_select_for_themselves(data: TaskData, monkeypatch, options) -> None:
    """Few-shot draws hold other images, and draw 0 is the one that selects."""
    trained = spy_on_training(monkeypatch)
    adapt_finetune(make_job(data, previous={"lr": 1e-2}, **options))
    assert {rate for rate, _ in trained} == {1e-3, 1e-2}


@pytest.mark.parametrize(("objective", "count"), [("none", 3), ("supervised", 2), ("unknown", 2)])
def test_random_weights_try_more_learning_rates(
    data: TaskData, monkeypatch, objective: str, count: int
) -> None:
    """The extra rates go to encoders that were not pre-trained, and are charged to them."""
    trained = spy_on_training(monkeypatch)
    encoder = make_encoder(Toy(), objective=objective)
    job = make_job(data, encoder=encoder, learning_rates_random=[3e-2])
    outcome = adapt_finetune(job)
    assert [rate for rate, _ in trained] == [1e-3, 1e-2, 3e-2][:count]
    assert outcome.images_seen == finetune_flops(job, IMAGES) == count * 24 * 8


def test_without_parameters_only_the_head_is_trained(data: TaskData) -> None:
    """Raw pixels are fine-tuned as a linear model, and it learns."""
    run = {"full": Run(draws=1, steps=40, batch=16)}
    job = make_job(
        data, encoder=make_encoder(nn.Flatten()), budgets=run, learning_rates=[1e-3, 1e-2]
    )
    outcome = adapt_finetune(job)
    assert outcome.trainable_parameters == outcome.parameters == (256 + 1) * 3
    assert TARGET.primary(outcome.predictions["in_domain"], data.splits["in_domain"].labels) > 0.8


def test_every_parameter_and_statistic_moves(data: TaskData) -> None:
    """All weights are trained, and BatchNorm gathers statistics of the new images."""
    job = make_job(data)
    classifier, _ = finetune._train(job, job.items, 1e-2)
    before, after = job.encoder.state_dict(), classifier.encoder.state_dict()
    assert all(not torch.equal(tensor, before[key]) for key, tensor in after.items())
    assert {"network.norm.running_mean", "network.norm.running_var"} <= set(after)


def test_the_head_starts_at_uniform_probabilities(data: TaskData) -> None:
    """Before the first step every class is equally likely."""
    classifier = Classifier(make_encoder(Toy()), 3, TARGET)
    np.testing.assert_allclose(classifier.predict(data.splits["in_domain"]), 1 / 3, rtol=1e-6)


def test_predictions_are_item_by_item(data: TaskData) -> None:
    """Chosen items get the rows that they have in the whole split."""
    job = make_job(data)
    classifier, _ = finetune._train(job, job.items, 1e-2)
    items, split = np.array([5, 2, 30]), data.splits["in_domain"]
    rows = classifier.predict(split)[items]
    np.testing.assert_allclose(classifier.predict(split, items), rows, atol=2e-2)  # bf16


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_the_best_epoch_is_kept(small: Small, monkeypatch, schedule: str) -> None:
    """With `keep: best` the weights of the epoch with the best validation score come back.

    Validation labels are those of the next class, so what is learned makes the score worse.
    """
    labels = (np.arange(24) + 1) % 3
    write_npz(small.data / "small.npz", val_labels=labels)
    task = open_task(load_card(small.card), folder=small.data)
    run = {"full": Run(draws=1, epochs=6, batch=20)}
    job = make_job(task, budgets=run, keep="best", schedule=schedule)
    rows = []
    predict = Classifier.predict

    def spy(self, split, items=None):
        rows.append(predict(self, split, items))
        return rows[-1]

    monkeypatch.setattr(Classifier, "predict", spy)
    classifier, _ = finetune._train(job, job.items, 1e-2)
    assert len(rows) == 6
    scores = [(TARGET.primary(row, labels), -TARGET.log_loss(row, labels)) for row in rows]
    best = scores.index(max(scores))
    assert best < 5
    found = predict(classifier, task.splits["validation"])
    np.testing.assert_array_equal(found, rows[best])


def test_batches_pass_over_all_items_before_repeating() -> None:
    """Equal batches, cut from shuffled passes; few shots are passed often."""
    items = np.array([3, 5, 8, 9, 11, 20, 21])
    generator = torch.Generator().manual_seed(0)
    batches = list(finetune._batches(items, 4, 14, generator))
    assert [len(batch) for batch in batches] == [4] * 14
    times = np.zeros(22, np.int64)
    for batch in batches:
        np.add.at(times, batch, 1)
        assert times[items].max() - times[items].min() <= 2
    assert (times[items] == 8).all()  # 14 batches of 4 are 8 passes
    assert times.sum() == 8 * 7
    for batch in batches:
        assert (np.diff(batch) >= 0).all()
    large = next(iter(finetune._batches(items, 14, 1, generator)))
    np.testing.assert_array_equal(large, np.repeat(items, 2))
    whole = [batch.tolist() for batch in finetune._batches(items, 7, 3, generator)]
    assert whole == [items.tolist()] * 3
