"""Logistic regression, multinomial or one-vs-rest, for many problems at once.

A linear probe is fitted for every L2 value and every cross-validation fold of the same features.
Together they form one batch: with P problems, N items, rank R and C classes, a gradient is two
matrix products of N x R by R x PC. With several labels an item every label is a problem
of its own (one-vs-rest).

Two exact changes of variables make the batch small and well conditioned. The bias is free, so
the features may be centred. The penalty is invariant under rotation, so they may be rotated to
their principal axes, dropping axes on which all items are zero: R <= min(N, D). On those axes
the Hessian is nearly diagonal, about s^2/N * p(1-p) + l2; L-BFGS scales the variables by its
diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medtransfer.adaptation.lbfgs import minimise

_ROWS = 4096


@dataclass(frozen=True)
class Axes:
    """Principal axes of a set of features.

    Attributes:
        mean: (D,).
        basis: (D, R), orthonormal columns.
    """

    mean: Tensor
    basis: Tensor

    def project(self, features: Tensor) -> Tensor:
        """Coordinates (N, R + 1) of features (N, D); the last one is the 1 of the bias."""
        coordinates = self.basis.new_ones((len(features), self.basis.shape[1] + 1))
        for rows, chunk in zip(
            torch.split(coordinates, _ROWS), torch.split(features, _ROWS), strict=True
        ):
            rows[:, :-1] = (chunk.double() - self.mean) @ self.basis
        return coordinates


def rotate(features: Tensor) -> Axes:
    """Principal axes of features (N, D), in float64 on their device."""
    items, width = features.shape
    # In chunks, so that many features need not be held in float64 beside their coordinates.
    chunks = torch.split(features, _ROWS)
    mean = torch.stack([chunk.double().sum(dim=0) for chunk in chunks]).sum(dim=0) / items
    if items < width:
        centred = features.double() - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        keep = values > 1e-12 * values[-1].clamp(min=1e-300)
        values, vectors = values[keep], vectors[:, keep]
        basis = centred.T @ (vectors / values.sqrt())
    else:
        products = mean.new_zeros((width, width))
        for chunk in chunks:
            centred = chunk.double() - mean
            products += centred.T @ centred
        values, basis = torch.linalg.eigh(products)
        keep = values > 1e-12 * values[-1].clamp(min=1e-300)
        values, basis = values[keep], basis[:, keep]
    return Axes(mean, basis)


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

    residual = log_p.exp()
    residual.scatter_add_(2, index, torch.full_like(index, -1, dtype=residual.dtype))
    residual *= share.unsqueeze(2)
    flat = residual.transpose(0, 1).reshape(-1, problems * classes)
    gradient = (inputs.T @ flat).view(rows, problems, classes).permute(1, 0, 2).contiguous()
    return _penalise(value, gradient, weights, l2)


def curvature(weights: Tensor, inputs: Tensor, share: Tensor, l2: Tensor) -> Tensor:
    """Diagonals (P, R + 1, C) of the Hessians of `objective`; arguments as there."""
    problems, rows, classes = weights.shape
    flat = weights.permute(1, 0, 2).reshape(rows, problems * classes)
    diagonal = torch.zeros_like(flat)
    for chunk, part in zip(torch.split(inputs, _ROWS), torch.split(share, _ROWS, 1), strict=True):
        p = torch.softmax((chunk @ flat).view(-1, problems, classes), dim=-1)
        spread = (p - p.square()) * part.T.unsqueeze(2)
        diagonal += chunk.square().T @ spread.view(-1, problems * classes)
    return _curve(diagonal.view(rows, problems, classes).permute(1, 0, 2), l2)


def objective_one_vs_rest(
    weights: Tensor, inputs: Tensor, share: Tensor, l2: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy + l2/2 |w|^2 of P problems, and its gradient.

    Args:
        weights: (P, R + 1, 1); the last row is the bias, which is not penalised.
        inputs: (N, R + 1), the last column ones.
        share: (P, N), each item's weight in each problem, with a minus for a negative item; the
            absolute values of a row sum to one.
        l2: (P,).

    Returns:
        Values (P,) and gradients (P, R + 1, 1).
    """
    margins = (weights.squeeze(2) @ inputs.T) * share.sign()
    value = -(functional.logsigmoid(margins) * share.abs()).sum(1)
    residual = -torch.sigmoid(-margins) * share
    return _penalise(value, (residual @ inputs).unsqueeze(2), weights, l2)


def curvature_one_vs_rest(weights: Tensor, inputs: Tensor, share: Tensor, l2: Tensor) -> Tensor:
    """Diagonals (P, R + 1, 1) of the Hessians of `objective_one_vs_rest`; arguments as there."""
    diagonal = torch.zeros_like(weights[..., 0])
    for chunk, part in zip(torch.split(inputs, _ROWS), torch.split(share, _ROWS, 1), strict=True):
        p = torch.sigmoid(weights.squeeze(2) @ chunk.T)
        diagonal += ((p - p.square()) * part.abs()) @ chunk.square()
    return _curve(diagonal.unsqueeze(2), l2)


def fit_logistic(
    coordinates: Tensor,
    targets: Tensor,
    *,
    classes: int,
    l2: Sequence[float],
    masks: Tensor | None = None,
) -> Tensor:
    """Minimise `objective` for every mask and every L2 value.

    With two classes of which a mask has only one there is no minimum; `fit_one_vs_rest` documents
    the value used instead.

    Args:
        coordinates: (N, R + 1), from `Axes.project`.
        targets: Labels (N,).
        classes: C.
        l2: L values.
        masks: (M, N), true for the items of each problem; ``None`` is one problem with all.

    Returns:
        Weights (M, L, R + 1, C); the last row is the bias.
    """
    if classes == 2:
        # Only the difference w = w1 - w0 matters; each class has half (see `fit_one_vs_rest`).
        halved = [value / 2 for value in l2]
        both = fit_one_vs_rest(coordinates, targets.unsqueeze(1), l2=halved, masks=masks) / 2
        return torch.cat([-both, both], dim=-1)
    masks = _every_item(coordinates) if masks is None else masks
    share = (masks.double() / masks.sum(1, keepdim=True)).repeat_interleave(len(l2), dim=0)
    penalty = torch.tensor(l2, dtype=torch.float64, device=coordinates.device).repeat(len(masks))

    def evaluate(weights: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        return objective(weights, coordinates, targets, share[problems], penalty[problems])

    def curve(weights: Tensor, problems: Tensor) -> Tensor:
        return curvature(weights, coordinates, share[problems], penalty[problems])

    start = coordinates.new_zeros((len(penalty), coordinates.shape[1], classes))
    weights = minimise(evaluate, curve, start)
    return weights.view(len(masks), len(l2), *weights.shape[1:])


def predict_logistic(weights: Tensor, coordinates: Tensor) -> Tensor:
    """Class probabilities (..., N, C) of weights (..., R + 1, C) and coordinates (N, R + 1)."""
    return torch.softmax(coordinates @ weights, dim=-1)


def fit_one_vs_rest(
    coordinates: Tensor,
    targets: Tensor,
    *,
    l2: Sequence[float],
    masks: Tensor | None = None,
) -> Tensor:
    """Minimise the binary objective of every label for every mask and every L2 value.

    A label's objective is the mean cross-entropy of its known items in the mask, with one weight
    vector w = w1 - w0 where a softmax of two classes has w1 and w0. At the softmax's minimum
    w1 = -w0 = w/2, so its penalty l2/2 (|w0|^2 + |w1|^2) is l2/4 |w|^2: a softmax needs twice the
    l2 for the same probabilities.

    A label without a positive or without a negative item in a mask has no finite minimum. It gets
    w = 0 and the bias of the probability (positives + 1/2) / (known + 1), the mean of Jeffreys'
    prior updated with the items: 1/2 if none is known.

    Args:
        coordinates: (N, R + 1), from `Axes.project`.
        targets: (N, K) for K labels: 1, 0 or -1 (unknown).
        l2: L values.
        masks: (M, N), true for the items of each problem; ``None`` is one problem with all.

    Returns:
        Weights (M, L, R + 1, K); the last row is the bias.
    """
    masks = _every_item(coordinates) if masks is None else masks
    labels = targets.T
    counted = masks.unsqueeze(1) & (labels >= 0)  # (M, K, N)
    known, positives = counted.sum(2), (counted & (labels == 1)).sum(2)
    # Without any share an objective is flat, and stops at its start.
    both = (positives > 0) & (positives < known)
    signs = torch.where(labels == 1, 1.0, -1.0).double()
    share = signs * counted * (both / known.clamp(min=1).double()).unsqueeze(2)
    share = share.repeat_interleave(len(l2), dim=0).flatten(0, 1)  # (M * L * K, N)
    penalty = torch.tensor(l2, dtype=torch.float64, device=coordinates.device)
    penalty = penalty.repeat_interleave(len(labels)).repeat(len(masks))

    prevalence = ((positives + 0.5) / (known.double() + 1)).repeat_interleave(len(l2), dim=0)
    start = coordinates.new_zeros((len(penalty), coordinates.shape[1], 1))
    start[:, -1:] = torch.logit(prevalence).view(-1, 1, 1)

    def evaluate(weights: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        return objective_one_vs_rest(weights, coordinates, share[problems], penalty[problems])

    def curve(weights: Tensor, problems: Tensor) -> Tensor:
        return curvature_one_vs_rest(weights, coordinates, share[problems], penalty[problems])

    weights = minimise(evaluate, curve, start)
    return weights.view(len(masks), len(l2), len(labels), -1).transpose(2, 3)


def predict_one_vs_rest(weights: Tensor, coordinates: Tensor) -> Tensor:
    """Label probabilities (..., N, K) of weights (..., R + 1, K) and coordinates (N, R + 1)."""
    return torch.sigmoid(coordinates @ weights)


def _every_item(coordinates: Tensor) -> Tensor:
    """One mask with all items."""
    return torch.ones((1, len(coordinates)), dtype=torch.bool, device=coordinates.device)


def _penalise(
    value: Tensor, gradient: Tensor, weights: Tensor, l2: Tensor
) -> tuple[Tensor, Tensor]:
    """Add l2/2 |w|^2 to values (P,) and its derivative to their gradients."""
    penalised = weights[:, :-1]
    gradient[:, :-1] += l2.view(-1, 1, 1) * penalised
    return value + 0.5 * l2 * penalised.square().sum((1, 2)), gradient


def _curve(diagonal: Tensor, l2: Tensor) -> Tensor:
    """Add the penalty to diagonals of Hessians (P, R + 1, C); keep them above zero.

    If every probability is 0 or 1 in floating point, the bias has no curvature.
    """
    penalised = diagonal[:, :-1] + l2.view(-1, 1, 1)
    return torch.cat([penalised, diagonal[:, -1:]], dim=1).clamp(min=1e-12)
