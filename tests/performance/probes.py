"""Rows of `make performance` about what is computed from features and from predictions."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medtransfer.adaptation import Job, probes
from medtransfer.adaptation.logistic import fit_logistic, objective
from medtransfer.data.draws import stratified_folds
from medtransfer.data.split import Split, TaskData
from medtransfer.encoders.loading import load_encoder
from medtransfer.metrics import item_weights
from medtransfer.metrics.classification import compute_auroc
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.task import load_tasks
from tests.performance.measure import Measured, Row, measure

__all__ = ["ROWS", "draw_jobs", "fit_usually"]

_AGREEMENT = 1e-4
_DRAWS = 3
_HELD_OUT = 200

Features = dict[str, NDArray[np.float64]]  # (N, D) of each split
Fitting = tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]  # weights, and what they fit
Found = tuple[float, list[Fitting]]  # the chosen L2


def sweep_probes(width: int, classes: int, items: int) -> Measured:
    """Every linear probe of one task in protocol quick, with selection and prediction.

    Budgets of 1, 10 and all items, three draws of the first two, seven L2 values and at 10 shots
    five folds. Against scikit-learn's L-BFGS, fit by fit in two processes; of its few-shot draws
    only the first is timed, and counted three times. Both have to come to the same objectives and
    to choose the same L2.
    """
    jobs = draw_jobs(width=width, classes=classes, items=items)
    splits = jobs["full", 0].data.splits
    features = {name: np.array(split.images, np.float64) for name, split in splits.items()}
    found: dict[tuple[str, int], Found] = {}
    usual: dict[str, Usual] = {}

    def ours() -> None:
        for key, job in jobs.items():
            fits: list[Fitting] = []
            with patch.object(probes, "fit_logistic", partial(_fit_and_keep, fits)):
                found[key] = probes.adapt_linear(job).selected["l2"], fits

    def theirs(*budgets: str) -> None:
        for budget in budgets:
            usual[budget] = fit_usually(jobs[budget, 0], features)

    with patch("medtransfer.adaptation.job.frozen_features", lambda _, split: split.images):
        few, full = partial(theirs, "1-shot", "10-shot"), partial(theirs, "full")
        measured = measure(ours, (few, _DRAWS), (full, 1))
    notes = [
        note
        for budget in ("10-shot", "full")
        for note in _compare(jobs[budget, 0], features, found[budget, 0], usual[budget])
    ]
    return replace(measured, notes=tuple(notes))


def draw_jobs(*, width: int, classes: int, items: int) -> dict[tuple[str, int], Job]:
    """Cells of a task whose images are its features: any encoder will do.

    The variance of the features falls as 1 / rank, as that of deep features does about, and the
    classes overlap.
    """
    rng = np.random.default_rng(0)
    deviation = 1 / np.sqrt(np.arange(1, width + 1))
    means = 0.8 * rng.normal(size=(classes, width)) * deviation**2
    offset = 3 * rng.normal(size=width) * deviation
    splits = {}
    for name, count in (("train", items), ("validation", _HELD_OUT), ("in_domain", _HELD_OUT)):
        labels = rng.permutation(np.arange(count) % classes)
        drawn = rng.normal(size=(count, width)) * deviation + means[labels] + offset
        drawn *= np.sqrt(width) / np.linalg.norm(drawn, axis=1, keepdims=True)
        ids = [f"{name} {number}" for number in range(count)]
        splits[name] = Split(drawn.astype(np.float32), labels, ids, name, name)
    card = load_tasks()["phantom_natural"]
    names = [f"class {number}" for number in range(classes)]
    card = card.model_copy(update={"classes": names, "out_of_domain": {}})
    encoder, data, protocol = load_encoder("pixels"), TaskData(card, splits), load_protocol("quick")
    cells = [*itertools.product(("1-shot", "10-shot"), range(_DRAWS)), ("full", 0)]
    return {cell: Job(encoder, data, protocol, *cell, {}, "linear") for cell in cells}


@dataclass(frozen=True)
class Usual:
    """What scikit-learn comes to in one cell.

    Attributes:
        l2: The chosen L2.
        fits: Those among which it was chosen, fold by fold: the items, the L2 and the model.
    """

    l2: float
    fits: list[tuple[NDArray[np.bool_], float, LogisticRegression]]


def fit_usually(job: Job, features: Features) -> Usual:
    """Fit, select and predict as `adapt_linear` does."""
    settings = job.protocol.linear
    assert settings is not None
    train, labels, test = features["train"][job.items], job.labels, features["in_domain"]
    if job.shots is not None and job.shots < settings.select_from_shots:
        _fit(train, labels, settings.l2_unselected).predict_proba(test)
        return Usual(settings.l2_unselected, [])
    if job.shots is None:
        masks = [np.ones(len(labels), bool)]
        judged, truth = features["validation"], job.data.splits["validation"].labels
    else:
        folds = stratified_folds(labels, settings.folds)
        masks = [folds != fold for fold in range(settings.folds)]
        judged, truth = train, labels
    tried = list(itertools.product(masks, settings.l2))
    models = Parallel(n_jobs=2)(delayed(_fit)(train[m], labels[m], l2) for m, l2 in tried)
    scored = np.empty((len(settings.l2), len(judged), job.classes))
    for (mask, l2), model in zip(tried, models, strict=True):
        rows = np.ones(len(judged), bool) if mask.all() else ~mask
        scored[settings.l2.index(l2), rows] = model.predict_proba(judged[rows])
    losses = [job.targets.log_loss(probabilities, truth) for probabilities in scored]
    best = max(range(len(losses)), key=lambda i: (-losses[i], settings.l2[i]))
    chosen = models[best] if job.shots is None else _fit(train, labels, settings.l2[best])
    chosen.predict_proba(test)
    fits = [(mask, l2, model) for (mask, l2), model in zip(tried, models, strict=True)]
    return Usual(settings.l2[best], fits)


def _fit(features: NDArray[np.float64], labels: NDArray[np.int64], l2: float) -> LogisticRegression:
    """Minimise mean cross-entropy + l2/2 |w|^2, in a thousand iterations at most.

    The tolerance is what the objective needs to agree with ours where those suffice; where they
    do not, scikit-learn is stopped early, to its advantage, and the comparison says so.
    """
    model = LogisticRegression(
        C=1 / (len(labels) * _penalty(l2, len(np.unique(labels)))),
        tol=min(1e-3 * l2, 2e-5),
        max_iter=1000,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def _penalty(l2: float, classes: int) -> float:
    """The L2 of scikit-learn's weights.

    Of two classes it knows only the difference w of their weights, whose penalty
    l2/2 (|w0|^2 + |w1|^2) is l2/4 |w|^2 at the minimum.
    """
    return l2 / 2 if classes == 2 else l2


def _fit_and_keep(fits: list[Fitting], *arguments: Any, **options: Any) -> torch.Tensor:
    weights = fit_logistic(*arguments, **options)
    fits.append((weights, arguments, options))
    return weights


def _compare(job: Job, features: Features, found: Found, usual: Usual) -> list[str]:
    """Say where we and scikit-learn disagree."""
    (l2, fits), notes = found, []
    if l2 != usual.l2:
        notes.append(f"{job.budget}: we choose L2 {l2:g}, scikit-learn {usual.l2:g}")
    theirs = []
    for mask, value, model in usual.fits:
        items, labels = features["train"][job.items][mask], job.labels[mask]
        losses = -np.log(model.predict_proba(items)[np.arange(len(labels)), labels])
        penalty = _penalty(value, job.classes)
        theirs.append(losses.mean() + penalty / 2 * np.square(model.coef_).sum())
    excess = np.array(_objectives(*fits[0])) / np.array(theirs) - 1
    for whose, larger in (("ours", excess), ("scikit-learn's", -excess)):
        if larger.max() > _AGREEMENT:
            count = int((larger > _AGREEMENT).sum())
            notes.append(
                f"{job.budget}: {whose} is the larger objective in {count} of {len(excess)} fits, "
                f"by up to {larger.max():.1e} of it"
            )
    return notes


def _objectives(
    weights: torch.Tensor, arguments: tuple[Any, ...], options: dict[str, Any]
) -> list[float]:
    """Of every mask and L2 value that `fit_logistic` was called with."""
    coordinates, targets = arguments
    masks = options.get("masks")
    masks = torch.ones((1, len(targets))) if masks is None else masks
    return [
        float(objective(fitted[None], coordinates, targets, (mask / mask.sum())[None], l2[None])[0])
        for mask, row in zip(masks.to(weights), weights, strict=True)
        for fitted, l2 in zip(row, torch.tensor(options["l2"]).to(row), strict=True)
    ]


def resample_auroc() -> Measured:
    """Macro AUROC of 1,000 bootstrap replicates, 10,000 items of 11 classes.

    Against scikit-learn's `roc_auc_score` with the same weights in a loop, of which three
    replicates are timed and counted for all.
    """
    items, classes, replicates, timed = 10_000, 11, 1_000, 3
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, items)
    logits = rng.normal(size=(items, classes)) + np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = item_weights("performance", "in_domain", items, replicates=replicates)
    found = {}

    def ours() -> None:
        found["ours"] = compute_auroc(probabilities, labels, weights)[:timed]

    def theirs() -> None:
        found["theirs"] = np.array(
            [
                roc_auc_score(labels, probabilities, sample_weight=row, multi_class="ovr")
                for row in weights[:timed]
            ]
        )

    measured = measure(ours, (theirs, replicates / timed))
    furthest = np.abs(found["ours"] - found["theirs"]).max()
    return measured if furthest < 1e-9 else replace(measured, notes=(f"off by {furthest:.1e}",))


def _sweep(width: int, classes: int, items: int) -> Row:
    return Row(
        f"linear sweep, {items:,} x {width:,}, {classes} classes",
        "scikit-learn, 2 processes; few-shot 3 x draw 0",
        10,
        partial(sweep_probes, width, classes, items),
    )


ROWS = [
    *(_sweep(*sizes) for sizes in itertools.product((512, 2048), (2, 10), (400, 2000))),
    Row("bootstrap, 10,000 x 11 AUROC", "scikit-learn, 3 of 1,000 replicates", 100, resample_auroc),
]
