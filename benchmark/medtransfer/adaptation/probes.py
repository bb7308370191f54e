"""Probes of the frozen encoder: weighted nearest neighbours and logistic regression."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.adaptation.job import Job, Outcome
from medtransfer.adaptation.logistic import (
    fit_logistic,
    fit_one_vs_rest,
    predict_logistic,
    predict_one_vs_rest,
    rotate,
)
from medtransfer.adaptation.targets import Targets
from medtransfer.cost.profile import Profile
from medtransfer.data.draws import strata, stratified_folds

# The solver stops when it has converged. The count that the ranking uses must not depend on
# that, so each problem counts as this many gradients.
_CHARGED_GRADIENTS = 100


def adapt_knn(job: Job) -> Outcome:
    """Classify by weighted nearest neighbours with cosine similarity.

    The k nearest shots vote with weight exp(cosine / temperature), as in Wu et al. (2018) and in
    DINO's evaluation; k is at most the size of the smallest class, so that no class loses by
    its size alone.
    """
    train = job.shot_features()
    settings = job.protocol.knn
    k = min(settings.neighbours, min(job.counts))
    truth, known = _votes(job)
    truth, known = truth.to(train.device), known.to(train.device)
    width = train.shape[1]  # features have length sqrt(D), so a dot product over D is a cosine
    probabilities = {}
    for name, split in job.data.tests.items():
        rows = []
        for batch in torch.split(job.features(split), 4096):
            cosine, nearest = (batch @ train.T / width).topk(k, dim=1)
            votes = torch.softmax(cosine / settings.temperature, dim=1)
            rows.append(_count_votes(votes, truth[nearest], known[nearest]))
        probabilities[name] = _array(torch.cat(rows))
    return _outcome(job, probabilities, {"neighbours": k}, trainable=0)


def _votes(job: Job) -> tuple[Tensor, Tensor]:
    """Return the votes of each shot, (n, C) of 0 and 1, and a mask of its known labels."""
    labels = torch.from_numpy(job.labels)
    if labels.ndim == 1:
        onehot = torch.nn.functional.one_hot(labels, job.classes).float()
        return onehot, torch.ones_like(onehot)
    return (labels == 1).float(), (labels >= 0).float()


def _count_votes(votes: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Average the votes (N, k) of neighbours with a known label, (N, C); .5 without any."""
    cast = torch.einsum("nk,nkc->nc", votes, known)
    won = torch.einsum("nk,nkc->nc", votes, truth)
    return torch.where(cast > 0, won / cast.clamp(min=1e-12), 0.5)


def adapt_linear(job: Job) -> Outcome:
    """Fit a logistic regression whose L2 is selected inside the budget.

    Multinomial for classes; for labels one binary regression each, with one L2 for all.

    At 1 and 5 shots nothing is selected. From 10 shots on, every L2 is scored on the pooled
    out-of-fold predictions of a cross-validation; at the full budget on the official validation
    split.
    """
    settings = job.protocol.linear
    assert settings is not None
    features = job.shot_features()
    targets = torch.from_numpy(job.labels).to(features.device)
    axes = rotate(features)
    coordinates = axes.project(features)
    fit, predict = _solver(job)

    if job.shots is not None and job.shots < settings.select_from_shots:
        weights = fit(coordinates, targets, l2=[settings.l2_unselected])[0, 0]
        selected: dict[str, Any] = {"l2": settings.l2_unselected}
    elif job.shots is None:
        fits = fit(coordinates, targets, l2=settings.l2)[0]
        validation = job.data.splits["validation"]
        scored = predict(fits, axes.project(job.features(validation)))
        best, selected = _select(job.targets, settings.l2, scored, validation.labels)
        weights = fits[best]
    else:
        folds = torch.from_numpy(stratified_folds(strata(job.labels), settings.folds))
        masks = torch.stack([folds != fold for fold in range(settings.folds)]).to(targets.device)
        fits = fit(coordinates, targets, l2=settings.l2, masks=masks)
        everywhere = predict(fits, coordinates)  # (folds, L, N, C)
        scored = everywhere[folds, :, torch.arange(len(folds))].transpose(0, 1)
        best, selected = _select(job.targets, settings.l2, scored, job.labels)
        weights = fit(coordinates, targets, l2=[settings.l2[best]])[0, 0]

    probabilities = {
        name: _array(predict(weights, axes.project(job.features(split))))
        for name, split in job.data.tests.items()
    }
    head = (features.shape[1] + 1) * job.classes
    return _outcome(job, probabilities, selected, trainable=head)


def _solver(job: Job) -> tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Return the functions that fit and apply the task's kind of logistic regression."""
    if job.data.card.kind == "multilabel":
        return fit_one_vs_rest, predict_one_vs_rest
    fit = partial(fit_logistic, classes=job.classes)
    return fit, predict_logistic


def _select(
    targets: Targets, l2: list[float], scored: Tensor, labels: NDArray[np.int64]
) -> tuple[int, dict[str, Any]]:
    """Select the L2 with the least log loss; if tied, the larger (reason: protocols/v1.yaml)."""
    losses = [targets.log_loss(fold, labels) for fold in scored.cpu().numpy()]
    best = max(range(len(l2)), key=lambda i: (-losses[i], l2[i]))
    return best, {
        "l2": l2[best],
        "validation": targets.primary(scored[best].cpu().numpy(), labels),
        "validation_log_loss": losses[best],
    }


def _outcome(
    job: Job,
    probabilities: dict[str, NDArray[np.float32]],
    selected: dict[str, Any],
    trainable: int,
) -> Outcome:
    encoder_parameters = sum(p.numel() for p in job.encoder.network.parameters())
    return Outcome(
        predictions=probabilities,
        selected=selected,
        images_seen=len(job.items),
        trainable_parameters=trainable,
        parameters=encoder_parameters + trainable,
    )


def _array(probabilities: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = probabilities.float().cpu().numpy()
    return array


def knn_flops(job: Job, profile: Profile) -> int:
    """Count the FLOPs of the shots' features; a neighbour search has no training."""
    return profile.forward * len(job.items)


def linear_flops(job: Job, profile: Profile) -> int:
    """Count the FLOPs of features (at full also of validation) and of nominal gradients."""
    settings = job.protocol.linear
    assert settings is not None
    items = len(job.items)
    images, problems = items, 1
    if job.shots is None:
        images, problems = items + len(job.data.splits["validation"]), len(settings.l2)
    elif job.shots >= settings.select_from_shots:
        problems = 1 + len(settings.l2) * settings.folds
    rank = min(items, profile.width)
    gradients = problems * _CHARGED_GRADIENTS * 4 * items * rank * job.classes
    rotation = 2 * items * profile.width * rank
    return profile.forward * images + gradients + rotation
