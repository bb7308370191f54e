"""One-vs-rest logistic regression against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from medtransfer.adaptation.logistic import (
    curvature_one_vs_rest,
    fit_logistic,
    fit_one_vs_rest,
    objective,
    objective_one_vs_rest,
    predict_logistic,
    predict_one_vs_rest,
    rotate,
)

L2 = [1e-6, 1e-4, 1e-2, 1.0]


def draw_features(*, items, width, labels=3, seed=0, unknown=0.0):
    """Float64 (N, D) and overlapping, rare and frequent targets (N, labels)."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(items, width)) * np.geomspace(2, 0.1, width)
    logits = features @ rng.normal(size=(width, labels)) + rng.logistic(size=(items, labels))
    thresholds = [np.quantile(z, q) for z, q in zip(logits.T, [0.9, 0.5, 0.3, 0.8], strict=False)]
    targets = (logits > thresholds).astype(np.int64)
    targets[rng.random(targets.shape) < unknown] = -1
    return features, targets


def fit(features, targets, l2=L2, masks=None):
    """Weights (M, L, D + 1, K) on the original axes, in numpy."""
    inputs = torch.from_numpy(features)
    axes = rotate(inputs)
    fitted = fit_one_vs_rest(
        axes.project(inputs),
        torch.from_numpy(targets),
        l2=l2,
        masks=None if masks is None else torch.from_numpy(masks),
    )
    slopes = torch.einsum("dr,mlrk->mldk", axes.basis, fitted[:, :, :-1])
    bias = fitted[:, :, -1] - torch.einsum("d,mldk->mlk", axes.mean, slopes)
    return torch.cat([slopes, bias.unsqueeze(2)], dim=2).numpy()


def compute_objective(weights, features, targets, l2):
    """One label's mean cross-entropy of its known items + l2/2 |w|^2, in numpy."""
    known = targets >= 0
    logits = features[known] @ weights[:-1] + weights[-1]
    loss = np.logaddexp(0, -logits * (2 * targets[known] - 1)).mean()
    return loss + l2 / 2 * np.square(weights[:-1]).sum()


def fit_sklearn(features, targets, l2):
    """Scikit-learn's weights of the same objective for one label: C = 1 / (known items * l2)."""
    known = targets >= 0
    model = LogisticRegression(
        C=1 / (known.sum() * l2), solver="newton-cholesky", tol=1e-10, max_iter=1000
    ).fit(features[known], targets[known])
    return np.append(model.coef_[0], model.intercept_)


@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize(("items", "width"), [(40, 80), (200, 12)])
def test_each_label_has_the_minimum_of_sklearn(items, width, unknown):
    """For every fold, L2 and label the minimum equals scikit-learn's within 1e-6 relative."""
    features, targets = draw_features(items=items, width=width, unknown=unknown)
    masks = np.stack([np.arange(items) % 3 != fold for fold in range(2)] + [np.ones(items, bool)])
    fitted = fit(features, targets, masks=masks)
    for m, mask in enumerate(masks):
        for i, l2 in enumerate(L2):
            for k in range(3):
                problem = features[mask], targets[mask, k], l2
                expected = compute_objective(fit_sklearn(*problem), *problem)
                found = compute_objective(fitted[m, i, :, k], *problem)
                assert found == pytest.approx(expected, rel=1e-6)


def test_probabilities_are_those_of_sklearn():
    """Unseen items get the same probabilities, where the penalty makes the minimum sharp."""
    features, targets = draw_features(items=120, width=20)
    unseen = draw_features(items=40, width=20, seed=1)[0]
    axes = rotate(torch.from_numpy(features))
    options = {"l2": [1e-2]}
    coordinates = axes.project(torch.from_numpy(features))
    weights = fit_one_vs_rest(coordinates, torch.from_numpy(targets), **options)
    found = predict_one_vs_rest(weights, axes.project(torch.from_numpy(unseen)))
    assert found.shape == (1, 1, 40, 3)
    for k in range(3):
        model = fit_sklearn(features, targets[:, k], 1e-2)
        expected = 1 / (1 + np.exp(-unseen @ model[:-1] - model[-1]))
        np.testing.assert_allclose(found[0, 0, :, k], expected, atol=1e-3)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_one_label_is_the_softmax_of_two_classes_with_twice_the_l2(l2):
    """The relation that `fit_one_vs_rest` derives, w = w1 - w0 included."""
    features, targets = draw_features(items=90, width=10, labels=1)
    axes = rotate(torch.from_numpy(features))
    coordinates, labels = axes.project(torch.from_numpy(features)), torch.from_numpy(targets)
    single = fit_one_vs_rest(coordinates, labels, l2=[l2])
    double = fit_logistic(coordinates, labels[:, 0], classes=2, l2=[2 * l2])
    # `fit_logistic` uses the relation, so what it returns is judged by the softmax's own objective.
    share = torch.full((1, len(labels)), 1 / len(labels), dtype=torch.float64)
    penalty = torch.tensor([2 * l2], dtype=torch.float64)
    _, gradient = objective(double[0], coordinates, labels[:, 0], share, penalty)
    assert gradient.abs().max() < 1e-4
    torch.testing.assert_close(
        predict_one_vs_rest(single, coordinates)[..., 0],
        predict_logistic(double, coordinates)[..., 1],
        rtol=0,
        atol=1e-12,
    )


def test_labels_are_fitted_apart():
    """A label's weights do not depend on which labels stand beside it, nor on their order."""
    features, targets = draw_features(items=60, width=12, labels=4, unknown=0.2)
    together = fit(features, targets)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(fit(features, targets[:, order]), together[..., order], atol=1e-3)
    for k in range(4):
        alone = fit(features, targets[:, [k]])
        np.testing.assert_allclose(alone, together[..., [k]], atol=1e-3)


@pytest.mark.parametrize("width", [8, 80])
def test_a_mask_is_a_fit_of_the_subset(width):
    """Each fold's problem has the minimum of its items alone, though the axes are everybody's."""
    features, targets = draw_features(items=60, width=width, unknown=0.2)
    masks = np.stack([np.arange(60) % 4 != fold for fold in range(4)])
    together = fit(features, targets, masks=masks)
    for mask, weights in zip(masks, together, strict=True):
        alone = fit(features[mask], targets[mask])[0]
        for masked, single, l2 in zip(weights, alone, L2, strict=True):
            for k in range(3):
                problem = features[mask], targets[mask, k], l2
                values = [compute_objective(w[:, k], *problem) for w in (masked, single)]
                assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_unknown_items_and_copies_change_nothing():
    """Items with an unknown label do not move its fit; a copy of every item moves no fit."""
    features, targets = draw_features(items=50, width=10)
    expected = fit(features, targets)
    others = draw_features(items=30, width=10, seed=1)[0]
    for more, labels in ((others, np.full((30, 3), -1)), (features, targets)):
        mixed = np.vstack([features, more]), np.vstack([targets, labels])
        for found, weights, l2 in zip(fit(*mixed)[0], expected[0], L2, strict=True):
            for k in range(3):
                problem = features, targets[:, k], l2
                values = [compute_objective(w[:, k], *problem) for w in (found, weights)]
                assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_labels_without_a_minimum_get_a_smoothed_prevalence():
    """Constant or unknown in a mask: no weights, (positives + 1/2) / (known + 1); others fitted."""
    features, targets = draw_features(items=40, width=10, labels=4)
    expected = fit(features, targets[:, [3]], masks=np.ones((1, 40), bool))
    targets[:, :3] = [1, 0, -1]
    targets[:10, :2] = -1
    masks = np.stack([np.ones(40, bool), np.arange(40) < 15, np.arange(40) < 10])
    fitted = fit(features, targets, masks=masks)
    assert np.isfinite(fitted).all()
    assert (fitted[:, :, :-1, :3] == 0).all()
    found = 1 / (1 + np.exp(-fitted[:, :, -1, :3]))
    wanted = [[30.5 / 31, 0.5 / 31, 0.5], [5.5 / 6, 0.5 / 6, 0.5], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(found, np.repeat(np.array(wanted)[:, None], len(L2), 1))
    np.testing.assert_allclose(fitted[:1, ..., 3:], expected, atol=1e-3)


def test_features_that_say_nothing_give_the_prevalence():
    """Equal features leave the bias alone, at the log-odds of the known positives."""
    targets = np.array([[1, 0], [0, 0], [0, -1], [0, 1]])
    fitted = fit(np.ones((4, 3)), targets, l2=[1e-2])[0, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-fitted[-1])), [1 / 4, 1 / 3], atol=1e-4)


def test_gradient_is_that_of_autograd():
    """The gradient that the solver uses is the derivative of the value that it minimises."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    weights = torch.randn((4, 7, 1), **options).requires_grad_()
    inputs = torch.cat([torch.randn((11, 6), **options), torch.ones(11, 1)], dim=1)
    share = torch.randn((4, 11), **options)
    share[1, :5] = 0
    share /= share.abs().sum(1, keepdim=True)
    share[2] = 0
    l2 = torch.tensor([1e-3, 0.1, 0.0, 2.0], dtype=torch.float64)
    value, gradient = objective_one_vs_rest(weights, inputs, share, l2)
    (expected,) = torch.autograd.grad(value.sum(), weights)
    torch.testing.assert_close(gradient.detach(), expected, rtol=1e-10, atol=1e-12)
    diagonals = curvature_one_vs_rest(weights.detach(), inputs, share, l2)
    for problem in range(4):
        arguments = inputs, share[[problem]], l2[[problem]]
        hessian = torch.autograd.functional.hessian(
            lambda w, a=arguments: objective_one_vs_rest(w[None], *a)[0].sum(), weights[problem]
        ).view(7, 7)
        expected = hessian.diagonal().clamp(min=1e-12)
        torch.testing.assert_close(diagonals[problem].flatten(), expected, rtol=1e-9, atol=1e-12)
    assert value[2] == 0
    assert (gradient[2] == 0).all()
