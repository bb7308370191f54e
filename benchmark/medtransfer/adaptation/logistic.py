"""Multinomial logistic regression, many problems at once.

A linear probe is fitted for every L2 value and every cross-validation fold of the same features.
Together they are one batch: with P problems, N items, rank R and C classes, a gradient is two
matrix products of N x R by R x PC.

Two exact changes of variables make the batch small and well conditioned. The bias is free, so
the features may be centred. The penalty does not change under rotation, so they may be turned to
their principal axes, and axes on which all items are zero dropped: R <= min(N, D). On those axes
the Hessian is nearly diagonal, about s^2/N * p(1-p) + l2, which is the preconditioner that L-BFGS
(Nocedal and Wright 2006, algorithm 7.4) starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Axes", "fit_logistic", "objective", "predict_logistic", "rotate"]

_HISTORY = 20
_ITERATIONS = 500
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Axes:
    """Principal axes of a set of features.

    Attributes:
        mean: (D,).
        basis: (D, R), orthonormal columns.
        variance: (R,), mean square along each axis, largest first.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Coordinates (N, R) of features (N, D)."""
        return (features.double() - self.mean) @ self.basis


def rotate(features: Tensor) -> Axes:
    """Principal axes of features (N, D), in float64 on their device."""
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    items, width = centred.shape
    if items < width:
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        keep = values > 1e-12 * values[-1].clamp(min=1e-300)
        values, vectors = values[keep], vectors[:, keep]
        basis = centred.T @ (vectors / values.sqrt())
    else:
        values, basis = torch.linalg.eigh(centred.T @ centred)
        keep = values > 1e-12 * values[-1].clamp(min=1e-300)
        values, basis = values[keep], basis[:, keep]
    return Axes(mean, basis.flip(1), values.flip(0) / items)


def objective(
    weights: Tensor, inputs: Tensor, targets: Tensor, share: Tensor, l2: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy + l2/2 |w|^2 of P problems, and its gradient.

    Args:
        weights: (P, R + 1, C); the last row is the bias, which is not penalised.
        inputs: (N, R + 1), the last column ones.
        targets: Labels (N,).
        share: (P, N), each item's weight in each problem; rows sum to one.
        l2: (P,).

    Returns:
        Values (P,) and gradients (P, R + 1, C).
    """
    problems, rows, classes = weights.shape
    flat = weights.permute(1, 0, 2).reshape(rows, problems * classes)
    logits = (inputs @ flat).view(-1, problems, classes).transpose(0, 1)
    log_p = torch.log_softmax(logits, dim=-1)
    index = targets.view(1, -1, 1).expand(problems, -1, 1)
    value = -(log_p.gather(2, index).squeeze(2) * share).sum(1)
    penalised = weights[:, :-1]
    value = value + 0.5 * l2 * penalised.square().sum((1, 2))

    residual = log_p.exp()
    residual.scatter_add_(2, index, torch.full_like(index, -1, dtype=residual.dtype))
    residual *= share.unsqueeze(2)
    flat = residual.transpose(0, 1).reshape(-1, problems * classes)
    gradient = (inputs.T @ flat).view(rows, problems, classes).permute(1, 0, 2).contiguous()
    gradient[:, :-1] += l2.view(-1, 1, 1) * penalised
    return value, gradient


def fit_logistic(
    coordinates: Tensor,
    targets: Tensor,
    *,
    variance: Tensor,
    classes: int,
    l2: Sequence[float],
    masks: Tensor | None = None,
) -> Tensor:
    """Minimise `objective` for every mask and every L2 value.

    Args:
        coordinates: (N, R), from `Axes.project`.
        targets: Labels (N,).
        variance: (R,), from `Axes`.
        classes: C.
        l2: L values.
        masks: (M, N), true for the items of each problem; ``None`` is one problem with all.

    Returns:
        Weights (M, L, R + 1, C); the last row is the bias.
    """
    if masks is None:
        masks = torch.ones((1, len(targets)), dtype=torch.bool, device=targets.device)
    inputs = torch.cat([coordinates, torch.ones_like(coordinates[:, :1])], dim=1)
    share = (masks.double() / masks.sum(1, keepdim=True)).repeat_interleave(len(l2), dim=0)
    penalty = torch.tensor(l2, dtype=torch.float64, device=inputs.device).repeat(len(masks))
    curvature = (1 - 1 / classes) / classes  # of the cross-entropy where all p are equal
    diagonal = torch.cat([variance * curvature, variance.new_tensor([curvature])])
    scale = 1 / (diagonal.unsqueeze(0) + penalty.unsqueeze(1)).unsqueeze(2)

    def evaluate(weights: Tensor) -> tuple[Tensor, Tensor]:
        return objective(weights, inputs, targets, share, penalty)

    start = inputs.new_zeros((len(penalty), inputs.shape[1], classes))
    weights = _minimise(evaluate, start, scale)
    return weights.view(len(masks), len(l2), *weights.shape[1:])


def predict_logistic(weights: Tensor, coordinates: Tensor) -> Tensor:
    """Class probabilities (..., N, C) from weights (..., R + 1, C) and coordinates (N, R)."""
    return torch.softmax(coordinates @ weights[..., :-1, :] + weights[..., -1:, :], dim=-1)


def _minimise(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, scale: Tensor
) -> Tensor:
    """Batched L-BFGS: each problem has its own history, step and end."""
    x = start
    value, gradient = evaluate(x)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(_ITERATIONS):
        direction = -_two_loop(gradient, steps, changes, scale)
        slope = _dot(direction, gradient)
        # The quadratic model promises a decrease of -slope/2.
        done = done | (-slope <= _TOLERANCE * value.clamp(min=1e-12))
        if bool(done.all()):
            break
        length = torch.where(done, 0.0, 1.0)
        for _ in range(30):  # backtracking to Armijo's condition, problem by problem
            candidate = x + length.view(-1, 1, 1) * direction
            new_value, new_gradient = evaluate(candidate)
            worse = (new_value > value + 1e-4 * length * slope) & ~done
            if not bool(worse.any()):
                break
            length = torch.where(worse, length * 0.5, length)
        else:
            length = torch.where(worse, 0.0, length)
            candidate = x + length.view(-1, 1, 1) * direction
            new_value, new_gradient = evaluate(candidate)
        steps.append(candidate - x)
        changes.append(new_gradient - gradient)
        del steps[:-_HISTORY], changes[:-_HISTORY]
        done = done | (length == 0)  # no decrease is left that rounding would not swallow
        x, value, gradient = candidate, new_value, new_gradient
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (P,) of two batches (P, R, C)."""
    return torch.einsum("prc,prc->p", a, b)


def _two_loop(
    gradient: Tensor, steps: list[Tensor], changes: list[Tensor], scale: Tensor
) -> Tensor:
    """The inverse Hessian's estimate times the gradient; a pair without curvature is skipped."""
    direction = gradient
    memory = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        curvature = _dot(step, change)
        rho = torch.where(curvature > 1e-30, 1 / curvature.clamp(min=1e-30), 0.0)
        alpha = rho * _dot(step, direction)
        direction = direction - alpha.view(-1, 1, 1) * change
        memory.append((rho, alpha, step, change))
    direction = scale * direction
    if steps:  # the preconditioner's overall size, from the newest pair
        curvature = _dot(steps[-1], changes[-1])
        norm = _dot(changes[-1], scale * changes[-1])
        factor = torch.where(curvature > 1e-30, curvature / norm.clamp(min=1e-300), 1.0)
        direction = direction * factor.view(-1, 1, 1)
    for rho, alpha, step, change in reversed(memory):
        beta = rho * _dot(change, direction)
        direction = direction + (alpha - beta).view(-1, 1, 1) * step
    return direction
