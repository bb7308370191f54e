"""Probes against scikit-learn; fine-tuning, its selection and its augmentation by their laws."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torchvision.transforms.v2 import functional as vision

from medtransfer.adaptation import ADAPTATIONS, finetune, learner
from medtransfer.adaptation.augmentation import augment
from medtransfer.adaptation.finetune import adapt_finetune, finetune_flops
from medtransfer.adaptation.job import Job
from medtransfer.adaptation.learner import Classifier
from medtransfer.adaptation.optimiser import build_optimiser
from medtransfer.adaptation.probes import _select, adapt_knn, adapt_linear
from medtransfer.adaptation.targets import TARGETS
from medtransfer.cost.profile import Profile
from medtransfer.data.draws import hold_out, stratified_folds
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.encoder import Encoder, check_encoder
from medtransfer.encoders.timm_networks import TimmNetwork
from medtransfer.evaluation.estimate import _time_learner
from medtransfer.specs.encoder import Architecture, EncoderCard, Input, PretrainingCard
from medtransfer.specs.protocol import Augmentation, FineTuning, Run, load_protocol
from medtransfer.specs.task import load_card
from tests.adaptation.test_logistic import fit_sklearn
from tests.conftest import Small, draw_images, write_card, write_npz

TARGET = TARGETS["multiclass"]
L2 = [1e-6, 1e-4, 1e-2, 1.0]
QUICK = load_protocol("quick")
NUMBERS = itertools.count()


# Jobs


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


@pytest.fixture
def data(small: Small) -> TaskData:
    """60 training images of 3 classes, 24 for validation, 36 for the test."""
    return open_task(load_card(small.card), folder=small.data)


@pytest.fixture
def garbage(small: Small) -> TaskData:
    """The same task with test splits of noise and random labels."""
    rng = np.random.default_rng(0)
    write_npz(
        small.data / "garbage.npz",
        test_images=rng.integers(0, 256, (36, 16, 16), dtype=np.uint8),
        test_labels=rng.integers(0, 3, (36, 1), dtype=np.uint8),
    )
    test = {"npz": "garbage.npz", "split": "test"}
    changes = {"in_domain": test, "out_of_domain": {"again": dict(test)}}
    path = write_card(small.cards / "garbage", "small", "small.npz", **changes)
    return open_task(load_card(path), folder=small.data)


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


def features_of(job, split, items=None):
    features = job.features(job.data.splits[split]).double().numpy()
    return features if items is None else features[items]


# Probes


@pytest.mark.parametrize("budget", ["1-shot", "5-shot", "full"])
def test_knn_is_that_of_sklearn(data: TaskData, budget: str) -> None:
    """Votes of the nearest by cosine similarity, weighted by exp(cosine / temperature)."""
    job = make_job(data, budget=budget)
    outcome = adapt_knn(job)
    k = outcome.selected["neighbours"]
    model = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    model.fit(features_of(job, "train", job.items), job.labels)
    expected = model.predict_proba(features_of(job, "in_domain"))
    np.testing.assert_allclose(outcome.predictions["in_domain"], expected, atol=1e-5)
    assert list(outcome.predictions) == ["in_domain", "again"]


def test_knn_asks_at_most_the_smallest_class(small: Small) -> None:
    """So no class is outvoted by its size alone; where all are large, the protocol's k holds."""
    labels = np.array([0] * 30 + [1] * 27 + [2] * 3)
    changes = {"train_images": draw_images(labels, seed=0), "train_labels": labels}
    write_npz(small.data / "small.npz", **changes)
    job = make_job(open_task(load_card(small.card), folder=small.data))
    assert adapt_knn(job).selected == {"neighbours": 3}
    assert adapt_knn(replace(job, budget="1-shot")).selected == {"neighbours": 1}


def test_knn_keeps_the_protocols_neighbours(data: TaskData) -> None:
    """Twenty items a class leave room for fewer neighbours than that."""
    knn = QUICK.knn.model_copy(update={"neighbours": 7})
    job = replace(make_job(data), protocol=QUICK.model_copy(update={"knn": knn}))
    assert adapt_knn(job).selected == {"neighbours": 7}


@pytest.mark.parametrize("budget", ["1-shot", "5-shot"])
def test_linear_selects_nothing_below_ten_shots(data: TaskData, budget: str) -> None:
    """The L2 is the protocol's, and the probabilities are scikit-learn's with it."""
    job = make_job(data, budget=budget)
    outcome = adapt_linear(job)
    assert outcome.selected == {"l2": 1e-3}
    model = fit_sklearn(features_of(job, "train", job.items), job.labels, 1e-3)
    expected = model.predict_proba(features_of(job, "in_domain"))
    np.testing.assert_allclose(outcome.predictions["in_domain"], expected, atol=5e-3)


def select_with_sklearn(losses):
    """The least loss; of equals the larger L2."""
    least = min(losses.values())
    l2 = max(value for value, loss in losses.items() if loss == least)
    return {"l2": l2, "loss": pytest.approx(least, rel=1e-2)}


def test_linear_cross_validates_at_ten_shots(data: TaskData) -> None:
    """The L2 with the least pooled out-of-fold log loss, as found by plain loops."""
    job = make_job(data, budget="10-shot")
    inputs, folds = features_of(job, "train", job.items), stratified_folds(job.labels, 5)
    losses = {}
    for l2 in QUICK.linear.l2:
        pooled = np.zeros((30, 3))
        for fold in range(5):
            fitted, scored = folds != fold, folds == fold
            model = fit_sklearn(inputs[fitted], job.labels[fitted], l2)
            pooled[scored] = model.predict_proba(inputs[scored])
        losses[l2] = sklearn_log_loss(job.labels, pooled)
    selected = adapt_linear(job).selected
    found = {"l2": selected["l2"], "loss": selected["validation_log_loss"]}
    assert found == select_with_sklearn(losses)


def test_linear_is_selected_on_validation_at_full(data: TaskData) -> None:
    """The L2 with the least log loss on the official validation split; its fit is the result."""
    job = make_job(data)
    inputs, validation = features_of(job, "train"), data.splits["validation"]
    models = {l2: fit_sklearn(inputs, job.labels, l2) for l2 in QUICK.linear.l2}
    held = features_of(job, "validation")
    losses = {
        l2: sklearn_log_loss(validation.labels, m.predict_proba(held)) for l2, m in models.items()
    }
    outcome = adapt_linear(job)
    found = {"l2": outcome.selected["l2"], "loss": outcome.selected["validation_log_loss"]}
    assert found == select_with_sklearn(losses)
    expected = models[found["l2"]].predict_proba(features_of(job, "in_domain"))
    np.testing.assert_allclose(outcome.predictions["in_domain"], expected, atol=5e-3)


def test_equal_losses_choose_the_larger_l2() -> None:
    """Of equals the stronger penalty, wherever it stands."""
    good, bad = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    labels = np.array([0])
    assert _select(TARGET, [1e-3, 1e-2, 1e-1], torch.stack([good, good, bad]), labels)[0] == 1
    assert _select(TARGET, [1e-3, 1e-2, 1e-1], torch.stack([good, good, good]), labels)[0] == 2


def test_scores_for_selection_are_defined_at_their_limits() -> None:
    """Certainty about the wrong class costs a finite loss; one class alone has no AUROC."""
    certain = np.array([[1.0, 0.0]])
    assert TARGET.log_loss(certain, np.array([0])) == 0
    assert 700 < TARGET.log_loss(certain, np.array([1])) < 720
    assert TARGET.primary(np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([1, 1])) is None


@pytest.mark.parametrize("budget", ["10-shot", "full"])
@pytest.mark.parametrize("name", ["knn", "linear", "finetune"])
def test_test_splits_never_influence_selection(
    data: TaskData, garbage: TaskData, name: str, budget: str
) -> None:
    """With noise for test images and labels everything that was selected stays the same."""
    encoder = make_encoder(Toy())
    outcomes = [
        ADAPTATIONS[name].adapt(make_job(task, budget=budget, encoder=encoder))
        for task in (data, garbage)
    ]
    assert outcomes[0].selected == outcomes[1].selected
    assert not np.array_equal(
        outcomes[0].predictions["in_domain"], outcomes[1].predictions["in_domain"]
    )


@pytest.mark.parametrize("name", ["knn", "linear", "finetune"])
def test_outcomes_say_what_was_trained(data: TaskData, name: str) -> None:
    """A probe sees its shots once and trains its head alone; fine-tuning trains everything."""
    encoder = make_encoder(Toy())
    own, head = sum(p.numel() for p in encoder.parameters()), (32 + 1) * 3
    outcome = ADAPTATIONS[name].adapt(make_job(data, budget="10-shot", encoder=encoder))
    trained = {"knn": 0, "linear": head, "finetune": own + head}[name]
    assert outcome.trainable_parameters == trained
    assert outcome.parameters == own + (0 if name == "knn" else head)
    if name != "finetune":
        assert outcome.images_seen == 30
    for array in outcome.predictions.values():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["knn", "linear", "finetune"])
def test_a_class_may_have_fewer_items_than_shots(small: Small, name: str) -> None:
    """What is there is taken and counted, and every adaptation copes, with a single item too."""
    labels = np.array([0] * 30 + [1] * 29 + [2])
    changes = {"train_images": draw_images(labels, seed=0), "train_labels": labels}
    write_npz(small.data / "small.npz", **changes)
    job = make_job(open_task(load_card(small.card), folder=small.data), budget="10-shot")
    assert job.counts == [10, 10, 1]
    assert job.shots == 10
    outcome = ADAPTATIONS[name].adapt(job)
    assert all(np.isfinite(array).all() for array in outcome.predictions.values())


# Fine-tuning


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


IMAGES = Profile(forward=0, training=1, width=0)
"""With it `finetune_flops` is the number of training images."""
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

    def spy(job, items, rate, *, part):
        trained.append((rate, items.tolist()))
        return train(job, items, rate, part=part)

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


@pytest.mark.parametrize(("fits", "part"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_a_batch_is_halved_until_it_fits_into_memory(data: TaskData, fits: int, part: int) -> None:
    """The gradients of its parts add up to the batch's, so the result is that of a large memory."""
    whole, halved = (
        adapt_finetune(make_job(data, encoder=make_encoder(Crowded(training, 32))))
        for training in (99, fits)
    )
    assert (whole.part, halved.part) == (8, part)
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
        learner.part = part
        assert finetune._backward(learner, pixels, labels)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    whole, parts = gradients
    assert (parts - whole).norm() < 0.02 * whole.norm()  # bf16


def test_parts_are_of_equal_size(data: TaskData) -> None:
    """Seven images of which three fit go through as 3, 2 and 2: batch norm needs two."""
    job = make_job(data, encoder=make_encoder(Crowded(3, 32)))
    learner = finetune.build_learner(job).train()
    learner.part, sizes = 3, []
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


def optimiser_of(network, **changes):
    """Optimiser, schedule and parameter names of a classifier."""
    classifier = Classifier(make_encoder(network), 3, TARGET)
    settings = make_protocol(**changes).finetune
    optimiser, schedule = build_optimiser(classifier, settings, 1e-2, 20)
    names = {
        p.data_ptr(): name.removeprefix("encoder.") for name, p in classifier.named_parameters()
    }
    return optimiser, schedule, names


def settings_of(optimiser, names, key):
    return {
        names[p.data_ptr()]: group[key] for group in optimiser.param_groups for p in group["params"]
    }


def test_layer_decay_slows_early_layers() -> None:
    """The head has the full rate; each layer group before the last has 3/4 of the next one's."""
    optimiser, _, names = optimiser_of(Toy(), layer_decay=0.75)
    rates = settings_of(optimiser, names, "initial_lr")
    assert set(rates) == set(names.values())
    expected = {"stem": 0.75**2, "norm": 0.75**2, "blocks.0": 0.75, "blocks.1": 1.0}
    for name, rate in rates.items():
        layer = name.removeprefix("network.").rpartition(".")[0]
        assert rate == pytest.approx(1e-2 * expected.get(layer, 1.0)), name


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("resnet18", {}, ["conv1.weight", "bn1.weight", "bn1.bias"]),
        ("vit_tiny_patch16_224", {"img_size": 16}, ["pos_embed", "patch_embed.proj.weight"]),
        ("efficientnet_lite0", {}, ["conv_stem.weight", "bn1.weight"]),
        ("cait_xxs24_224", {"img_size": 16}, ["patch_embed.proj.weight", "pos_embed"]),
    ],
)
def test_layer_groups_are_those_of_timm(name: str, options: dict, first: list[str]) -> None:
    """Behind our wrapper a timm network has the groups that timm gives it; the stem is first."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0, **options)
    network.to_empty(device="cpu")
    expected = {
        id(p): group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(network, layer_decay=0.75)
        for p in group["params"]
    }
    encoder = Encoder(
        EncoderCard(name="timm", architecture=Architecture(timm=name)),
        TimmNetwork(network),
        identity="timm",
        size=16,
    )
    encoder.width = 8
    settings = make_protocol(layer_decay=0.75).finetune
    optimiser, _ = build_optimiser(Classifier(encoder, 3, TARGET), settings, 1e-2, 20)
    rates = {p.data_ptr(): g["initial_lr"] for g in optimiser.param_groups for p in g["params"]}
    own = {key: rates[p.data_ptr()] for key, p in network.named_parameters()}
    for key, parameter in network.named_parameters():
        assert own[key] == pytest.approx(1e-2 * expected[id(parameter)]), key
    assert [own[key] for key in first] == [min(own.values())] * len(first)
    assert min(own.values()) < 0.4e-2


def test_weight_decay_spares_biases_and_norms() -> None:
    """Only matrices and filters are decayed, the head's included."""
    optimiser, _, names = optimiser_of(Toy(), weight_decay=0.05)
    for name, decay in settings_of(optimiser, names, "weight_decay").items():
        spared = name.endswith("bias") or "norm" in name
        assert decay == (0 if spared else 0.05), name


def rates_over_time(steps=20, **changes):
    """The head's share of the learning rate at each step."""
    classifier = Classifier(make_encoder(nn.Flatten()), 3, TARGET)
    settings = make_protocol(**changes).finetune
    optimiser, schedule = build_optimiser(classifier, settings, 1e-2, steps)
    shares = []
    for _ in range(steps):
        shares.append(optimiser.param_groups[0]["lr"] / 1e-2)
        optimiser.step()
        schedule.step()
    return np.array(shares)


def test_cosine_schedule_warms_up_and_ends_near_zero() -> None:
    """A straight line up to the full rate, then half a cosine down."""
    shares = rates_over_time(200, warmup=0.1)
    np.testing.assert_allclose(shares[:20], np.arange(1, 21) / 20)
    assert shares.max() == 1
    assert (np.diff(shares[20:]) < 0).all()
    assert shares[110] == pytest.approx(0.5)
    assert 0 < shares[-1] < 1e-3
    expected = [0.5 * (1 + math.cos(math.pi * step / 200)) for step in range(200)]
    np.testing.assert_allclose(rates_over_time(200, warmup=0), expected)


def test_step_schedule_is_that_of_medmnist() -> None:
    """A tenth from the middle on, a hundredth from three quarters on."""
    shares = rates_over_time(100, schedule="steps", warmup=0)
    np.testing.assert_allclose(shares, [1.0] * 50 + [0.1] * 25 + [0.01] * 25)


# Augmentation


def make_images(count=4, channels=3, size=32, seed=0):
    return 255 * torch.rand((count, channels, size, size), generator=seeded(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_ramps(count, size=32):
    """Images whose two channels are the column and the row of each pixel."""
    rows, columns = torch.meshgrid(*[torch.arange(size).float()] * 2, indexing="ij")
    return torch.stack([columns, rows]).expand(count, 2, size, size)


def test_augmentation_can_be_the_identity() -> None:
    """Without crop, jitter and flip the images come back."""
    images = make_images()
    settings = Augmentation(crop=1, jitter=0)
    found = augment(images, settings, flip=False, generator=seeded())
    torch.testing.assert_close(found, images, atol=1e-2, rtol=0)  # of 255


def test_augmentation_keeps_shape_and_range() -> None:
    """Extreme images stay between 0 and 255, grey or in colour; the input is not written to."""
    for channels in (1, 3):
        images = make_images(64, channels) * (torch.arange(64).view(-1, 1, 1, 1) % 2)
        before = images.clone()
        found = augment(images, Augmentation(jitter=0.9), flip=True, generator=seeded())
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert 0 <= found.min() <= found.max() <= 255
        assert torch.equal(images, before)
    grey = torch.full((2, 1, 8, 8), 100.0).expand(2, 3, 8, 8)  # as `resample` gives it
    found = augment(grey, Augmentation(), flip=True, generator=seeded())
    assert torch.equal(found[:, 0], found[:, 1])


def test_augmentation_is_decided_by_the_generator() -> None:
    """The same seed changes the images in the same way, another one differently."""
    images, settings = make_images(), Augmentation()
    first, again, other = (
        augment(images, settings, flip=True, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flips_only_where_the_card_allows_it() -> None:
    """Left and right are exchanged in about half the images, or in none; never top and bottom."""
    ramps = make_ramps(400)
    settings = Augmentation(jitter=0)
    for flip, low, high in ((False, 0, 0), (True, 150, 250)):
        found = augment(ramps, settings, flip=flip, generator=seeded())
        mirrored = found[:, 0, 16, 0] > found[:, 0, 16, -1]
        assert low <= int(mirrored.sum()) <= high
        assert (found[:, 1, 0, 16] < found[:, 1, -1, 16]).all()


def test_crops_are_square_inside_and_large_enough() -> None:
    """A coordinate ramp tells the crop: square, inside the image, its area as it should be."""
    size = 32
    found = augment(
        make_ramps(500, size), Augmentation(crop=0.6, jitter=0), flip=False, generator=seeded()
    )
    # Between two inner pixels the ramp rises by side / size of the image in each step.
    columns, rows = found[:, 0, 16, 8:24], found[:, 1, 8:24, 16]
    wide, high = ((line[:, -1] - line[:, 0]) / 15 for line in (columns, rows))
    torch.testing.assert_close(wide, high, atol=1e-3, rtol=0)
    share = wide * high
    assert 0.6 - 1e-3 <= share.min() < 0.62
    assert 0.98 < share.max() <= 1 + 1e-3
    assert abs(float(share.mean()) - 0.8) < 0.02
    for line, side in ((columns, wide), (rows, high)):
        middle = (line[:, 7] + line[:, 8]) / 2 + 0.5  # in pixels from the left edge
        assert (middle - side * size / 2 >= -1e-2).all()
        assert (middle + side * size / 2 <= size + 1e-2).all()
        assert float(middle.std()) > 0.5


def test_a_crop_is_that_of_torchvision() -> None:
    """Cutting at the place the ramp tells and resizing with torchvision gives the same image."""
    smooth = vision.gaussian_blur(make_images(1, 1, 64), [15, 15], [4.0, 4.0])
    settings = Augmentation(crop=0.5, jitter=0)
    ramp = augment(make_ramps(1, 64), settings, flip=False, generator=seeded(5))[0]
    found = augment(smooth, settings, flip=False, generator=seeded(5))
    scale = 63 / 31 * float(ramp[0, 32, 47] - ramp[0, 32, 16]) / 63  # shown pixels to image pixels
    middle = [float(ramp[axis, 31:33, 31:33].mean()) - 31.5 for axis in (0, 1)]
    expected = vision.affine(
        smooth,
        angle=0.0,
        translate=[-middle[0] / scale, -middle[1] / scale],
        scale=1 / scale,
        shear=[0.0],
        interpolation=vision.InterpolationMode.BILINEAR,
    )
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(found[inner], expected[inner], atol=0.5, rtol=0)


def test_jitter_changes_brightness_and_contrast_within_bounds() -> None:
    """The mean moves by at most the jitter, and so does the spread; not the same for all."""
    images = 100 + 20 * (make_images(300) / 255 - 0.5)
    found = augment(images, Augmentation(crop=1, jitter=0.1), flip=False, generator=seeded())
    for statistic in (torch.mean, torch.std):
        ratio = statistic(found, dim=(1, 2, 3)) / statistic(images, dim=(1, 2, 3))
        assert 0.9 - 1e-3 <= ratio.min() < 0.91
        assert 1.09 < ratio.max() <= 1.1 + 1e-3


def test_the_card_decides_about_flips_in_training(data: TaskData, monkeypatch) -> None:
    """The task card's `flip` reaches the augmentation; `augmentation: null` skips it."""
    asked = []

    def spy(pixels, settings, *, flip, generator):
        asked.append(flip)
        return pixels

    monkeypatch.setattr(learner, "augment", spy)
    for flip in (False, True):
        task = replace(data, card=data.card.model_copy(update={"flip": flip}))
        job = make_job(task, budgets={"full": Run(draws=1, steps=2, batch=4)})
        finetune._train(job, job.items, 1e-3)
    assert asked == [False, False, True, True]
    job = replace(job, protocol=make_protocol(augmentation=None))
    finetune._train(job, job.items, 1e-3)
    assert len(asked) == 4
