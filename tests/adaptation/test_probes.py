"""Probes against scikit-learn, and the selection of their settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.neighbors import KNeighborsClassifier

from medtransfer.adaptation import ADAPTATIONS
from medtransfer.adaptation.probes import _select, adapt_knn, adapt_linear
from medtransfer.data.draws import stratified_folds
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card
from tests.conftest import Small, draw_images, write_card, write_npz
from tests.helpers.adaptation import QUICK, TARGET, Toy, make_encoder, make_job
from tests.helpers.logistic import fit_sklearn

L2 = [1e-6, 1e-4, 1e-2, 1.0]


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


def features_of(job, split, items=None):
    features = job.features(job.data.splits[split]).double().numpy()
    return features if items is None else features[items]


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
