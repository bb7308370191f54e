"""The batched logistic regression against scikit-learn, autograd and a slow solver."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from medtransfer.adaptation import logistic
from medtransfer.adaptation.lbfgs import _History
from medtransfer.adaptation.logistic import (
    curvature,
    fit_logistic,
    objective,
    predict_logistic,
    rotate,
)
from tests.helpers.logistic import fit_sklearn

L2 = [1e-6, 1e-4, 1e-2, 1.0]


def draw_features(*, items, width, classes, seed=0, case="plain"):
    """Overlapping classes; float64 (N, D) and labels (N,)."""
    rng = np.random.default_rng(seed)
    shares = np.full(classes, 1 / classes)
    if case == "imbalanced":
        shares = np.array([0.8, *[0.2 / (classes - 1)] * (classes - 1)])
    labels = np.concatenate([np.arange(classes), rng.choice(classes, items - classes, p=shares)])
    features = rng.normal(size=(items, width)) * np.geomspace(2, 0.1, width)
    features += 0.8 * rng.normal(size=(classes, width))[labels]
    if case == "constant":
        features[:, 1] = 3.0
    if case == "duplicated":
        half = items // 2
        features[half : 2 * half], labels[half : 2 * half] = features[:half], labels[:half]
    return features, labels


def fit(features, labels, l2, *, masks=None):
    """Weights (M, L, D + 1, C) on the original axes, in numpy."""
    classes = int(labels.max()) + 1
    inputs = torch.from_numpy(features)
    axes = rotate(inputs)
    fitted = fit_logistic(
        axes.project(inputs),
        torch.from_numpy(labels),
        classes=classes,
        l2=l2,
        masks=None if masks is None else torch.from_numpy(masks),
    )
    slopes = torch.einsum("dr,mlrc->mldc", axes.basis, fitted[:, :, :-1])
    bias = fitted[:, :, -1] - torch.einsum("d,mldc->mlc", axes.mean, slopes)
    return torch.cat([slopes, bias.unsqueeze(2)], dim=2).numpy()


def compute_objective(weights, features, labels, l2):
    """Mean cross-entropy + l2/2 |w|^2, in numpy."""
    logits = features @ weights[:-1] + weights[-1]
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(len(labels)), labels].mean()
    return loss + l2 / 2 * np.square(weights[:-1]).sum()


@pytest.mark.parametrize("case", ["plain", "imbalanced", "constant", "duplicated"])
@pytest.mark.parametrize(("items", "width"), [(30, 60), (90, 12)])
def test_objective_is_that_of_sklearn(case: str, items: int, width: int) -> None:
    """The minimum equals scikit-learn's within 1e-4 relative, for weak and strong penalties."""
    features, labels = draw_features(items=items, width=width, classes=4, case=case)
    for weights, l2 in zip(fit(features, labels, L2)[0], L2, strict=True):
        model = fit_sklearn(features, labels, l2)
        other = np.vstack([model.coef_.T, model.intercept_])
        ours, theirs = (compute_objective(w, features, labels, l2) for w in (weights, other))
        assert ours <= theirs * (1 + 1e-4)
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_probabilities_are_those_of_sklearn() -> None:
    """Unseen items get the same probabilities, where the penalty makes the minimum sharp."""
    features, labels = draw_features(items=80, width=20, classes=3)
    unseen = draw_features(items=40, width=20, classes=3, seed=1)[0]
    inputs = torch.from_numpy(features)
    axes = rotate(inputs)
    options = {"classes": 3, "l2": [1e-2]}
    weights = fit_logistic(axes.project(inputs), torch.from_numpy(labels), **options)[0, 0]
    found = predict_logistic(weights, axes.project(torch.from_numpy(unseen))).numpy()
    expected = fit_sklearn(features, labels, 1e-2).predict_proba(unseen)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_two_classes_are_the_binary_fit_with_half_the_l2() -> None:
    """Two softmax columns are the binary model with w = w1 - w0.

    At the minimum w1 = -w0 = w/2, since the loss depends on the difference alone. So the penalty
    l2/2 (|w0|^2 + |w1|^2) is l2/4 |w|^2: that of the binary model with half the l2.
    """
    features, labels = draw_features(items=70, width=15, classes=2, case="imbalanced")
    for weights, l2 in zip(fit(features, labels, L2)[0], L2, strict=True):
        model = fit_sklearn(features, labels, l2)
        half = np.vstack([model.coef_.T, model.intercept_]) / 2
        ours = compute_objective(weights, features, labels, l2)
        theirs = compute_objective(np.hstack([-half, half]), features, labels, l2)
        assert ours == pytest.approx(theirs, rel=1e-4)
        # The loss is flat in w0 + w1, which only the penalty pulls to zero.
        np.testing.assert_allclose(weights.sum(axis=1), 0, atol=1e-2)
        if l2 >= 1e-2:
            np.testing.assert_allclose(weights[:, 1] - weights[:, 0], 2 * half[:, 0], atol=2e-3)


@pytest.mark.parametrize("width", [8, 80])
def test_a_mask_is_a_fit_of_the_subset(width: int) -> None:
    """Each fold's problem has the minimum of its items alone, though the axes are everybody's."""
    features, labels = draw_features(items=60, width=width, classes=3)
    masks = np.stack([np.arange(60) % 4 != fold for fold in range(4)])
    together = fit(features, labels, L2, masks=masks)
    for mask, weights in zip(masks, together, strict=True):
        alone = fit(features[mask], labels[mask], L2)[0]
        for masked, single, l2 in zip(weights, alone, L2, strict=True):
            values = [
                compute_objective(w, features[mask], labels[mask], l2) for w in (masked, single)
            ]
            assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_class_without_items_gets_no_probability() -> None:
    """A fold that lacks a class ends, with finite weights, and predicts the class to be absent."""
    features, labels = draw_features(items=40, width=10, classes=3)
    mask = (labels != 2)[None]
    weights = fit(features, labels, L2, masks=mask)
    assert np.isfinite(weights).all()
    logits = features @ weights[0, :, :-1] + weights[0, :, -1:]
    assert (np.exp(logits[:, mask[0], 2] - logits[:, mask[0]].max(axis=2)) < 1e-3).all()


def test_gradient_is_that_of_autograd() -> None:
    """The gradient that the solver uses is the derivative of the value that it minimises."""
    generator = torch.Generator().manual_seed(0)
    options = {"generator": generator, "dtype": torch.float64}
    weights = torch.randn((3, 7, 4), **options).requires_grad_()
    inputs = torch.cat([torch.randn((11, 6), **options), torch.ones(11, 1)], dim=1)
    share = torch.rand((3, 11), **options)
    share[1, :5] = 0
    share /= share.sum(1, keepdim=True)
    l2 = torch.tensor([1e-3, 0.1, 2.0], dtype=torch.float64)
    value, gradient = objective(weights, inputs, torch.arange(11) % 4, share, l2)
    (expected,) = torch.autograd.grad(value.sum(), weights)
    torch.testing.assert_close(gradient.detach(), expected, rtol=1e-10, atol=1e-12)


def test_curvature_is_the_diagonal_of_the_hessian() -> None:
    """What the solver scales by is the second derivative of what it minimises, of any chunking."""
    generator = torch.Generator().manual_seed(1)
    options = {"generator": generator, "dtype": torch.float64}
    weights = torch.randn((2, 5, 3), **options)
    inputs = torch.cat([torch.randn((13, 4), **options), torch.ones(13, 1)], dim=1)
    share = torch.rand((2, 13), **options)
    share /= share.sum(1, keepdim=True)
    l2 = torch.tensor([1e-3, 0.5], dtype=torch.float64)
    diagonals = curvature(weights, inputs, share, l2)
    for problem in range(2):
        arguments = inputs, torch.arange(13) % 3, share[[problem]], l2[[problem]]
        hessian = torch.autograd.functional.hessian(
            lambda w, a=arguments: objective(w[None], *a)[0].sum(), weights[problem]
        ).view(15, 15)
        expected = hessian.diagonal().view(5, 3)
        torch.testing.assert_close(diagonals[problem], expected, rtol=1e-9, atol=1e-12)
    with patch.object(logistic, "_ROWS", 4):
        torch.testing.assert_close(curvature(weights, inputs, share, l2), diagonals)


@pytest.mark.parametrize("added", [0, 1, 7, 20, 33])
def test_history_is_the_two_loop_recursion(added: int) -> None:
    """The compact form is Nocedal and Wright's algorithm 7.4, empty and overfull.

    So problem by problem, whichever pairs have no curvature, whatever scaling came in between.
    """
    generator = torch.Generator().manual_seed(added)
    options = {"generator": generator, "dtype": torch.float64}
    like = torch.zeros((3, 4, 2), dtype=torch.float64)
    history, pairs = _History(like), []
    matrix = torch.randn((8, 8), **options)
    matrix = matrix @ matrix.T + torch.eye(8)
    for number in range(added):
        step = torch.randn((3, 8), **options)
        change = step @ matrix + 0.1 * torch.randn((3, 8), **options)
        if number % 5 == 3:
            change[1] = -step[1]
        history.add(step.view_as(like), change.view_as(like))
        pairs.append((step, change))
        if number in (4, 25):
            history.scale_by(0.5 + torch.rand((3, 4, 2), **options))
    gradient = torch.randn((3, 4, 2), **options)
    found = history.precondition(gradient)
    for problem in range(3):
        known = [(s[problem], y[problem]) for s, y in pairs[-20:]]
        newest = known[-1] if known else None
        known = [(s, y) for s, y in known if s @ y > 0]
        direction, memory = gradient[problem].flatten(), []
        for step, change in reversed(known):
            alpha = step @ direction / (step @ change)
            direction = direction - alpha * change
            memory.append((alpha, step, change))
        scale = history.scale[problem]
        direction = scale * direction
        if newest is not None and newest[0] @ newest[1] > 0:
            step, change = newest
            direction = direction * (step @ change) / (change @ (scale * change))
        for alpha, step, change in reversed(memory):
            direction = direction + (alpha - change @ direction / (step @ change)) * step
        torch.testing.assert_close(found[problem].flatten(), direction, rtol=1e-7, atol=1e-9)


def test_hardly_any_penalty_is_solved_to_the_end() -> None:
    """Separable classes and an L2 of 1e-6, where a fixed preconditioner ran out of iterations."""
    features, labels = draw_features(items=200, width=250, classes=4)
    deviation = 1 / np.arange(1, 251)
    features = features * deviation * np.sqrt(250) + deviation
    weights = fit(features, labels, [1e-6])[0, 0]
    classes = torch.from_numpy(labels)
    inputs = torch.cat([torch.from_numpy(features), torch.ones(len(labels), 1)], dim=1)
    share = torch.full((1, len(labels)), 1 / len(labels), dtype=torch.float64)
    l2 = torch.tensor([1e-6], dtype=torch.float64)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        point = torch.from_numpy(flat).view(1, -1, 4)
        value, gradient = objective(point, inputs, classes, share, l2)
        return float(value), gradient.numpy().ravel()

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-13, "gtol": 1e-10}
    found = minimize(loss, np.zeros(weights.size), jac=True, method="L-BFGS-B", options=options)
    assert loss(weights.ravel())[0] < found.fun * (1 + 1e-4)


@pytest.mark.parametrize("width", [10, 60])
def test_turning_and_shifting_features_changes_nothing(width: int) -> None:
    """Predictions do not depend on the coordinate system: the bias is free, the norm round."""
    features, labels = draw_features(items=40, width=width, classes=3)
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    moved = features @ rotation + 5 * rng.normal(size=width)
    predictions = []
    for inputs in (features, moved):
        weights = fit(inputs, labels, [1e-3, 1e-1])[0]
        logits = inputs @ weights[:, :-1] + weights[:, -1:]
        predictions.append(torch.softmax(torch.from_numpy(logits), dim=-1).numpy())
    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-5)


@pytest.mark.parametrize(("items", "width"), [(12, 40), (40, 12), (20, 20)])
def test_axes_are_orthonormal_and_complete(items: int, width: int) -> None:
    """The basis is orthonormal, ordered, drops empty axes, and keeps every centred item."""
    features = draw_features(items=items, width=width, classes=3, case="duplicated")[0]
    features[:, -1] = features[:, 0] - features[:, 1]
    inputs = torch.from_numpy(features)
    axes = rotate(inputs)
    rank = np.linalg.matrix_rank(features - features.mean(axis=0))
    assert axes.basis.shape == (width, rank)
    torch.testing.assert_close(axes.basis.T @ axes.basis, torch.eye(rank, dtype=torch.float64))
    coordinates, ones = axes.project(inputs).split([rank, 1], dim=1)
    assert (ones == 1).all()
    torch.testing.assert_close(coordinates @ axes.basis.T + axes.mean, inputs)
