"""Metrics of predicted masks, computed for each image and class and then averaged.

Let N be the number of images, H x W their size in pixels, C of classes, B of weightings. A metric
maps predicted class ids [N, H, W], true ones [N, H, W] and weights [B, N] to values [B]: the mean
of the values of the foreground classes (class 0 is background and has none), each the weighted
mean over the images where the metric is defined for that class. A class that is defined in no
image is left out, so classes that never occur change nothing; NaN marks that all are left out.
What a weight means stands in ``evaluation``. Maier-Hein et al. (2024), "Metrics Reloaded", Nature
Methods 21, discuss the choice of metrics.

With P the pixels of a class in the prediction and T those in the truth of one image, an empty
mask counts as follows:

| metric      | P and T empty | only T empty | only P empty |
| ----------- | ------------- | ------------ | ------------ |
| dice        | undefined     | 0            | 0            |
| iou         | undefined     | 0            | 0            |
| nsd         | undefined     | 0            | 0            |
| hd95        | undefined     | diagonal     | diagonal     |
| sensitivity | undefined     | undefined    | 0            |
| precision   | undefined     | 0            | undefined    |

The diagonal is that of the image, sqrt(H^2 + W^2), farther than any two of its pixels are apart:
to miss a structure is worse than to find it anywhere.

A surface is made of the pixels of a mask with one of their 4 neighbours outside the mask; what is
beyond the image is outside. Distances are between the centres of pixels, in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from medtransfer.metrics.evaluation import (
    Evaluation,
    Floats,
    Metric,
    Numbers,
    average_defined,
    divide,
    refuse_weights,
    summarise,
)

_PERCENTILE = 95
_TOLERANCE = 2 / 128  # of the image's width
_LEAST_TOLERANCE = 1.0  # pixels: neighbouring pixels are never told apart


def score_overlap(predicted: Numbers, truth: Numbers, *, classes: int) -> dict[str, Floats]:
    """Compare the areas of each image and foreground class.

    Dice (1945) 2 |P & T| / (|P| + |T|), the IoU of Jaccard (1912) |P & T| / |P | T|, sensitivity
    |P & T| / |T| and precision |P & T| / |P|.

    Args:
        predicted: Predicted class ids [N, H, W].
        truth: True class ids [N, H, W].
        classes: Number of classes C, background included.

    Returns:
        ``dice``, ``iou``, ``sensitivity`` and ``precision``, [N, C - 1] each, NaN where undefined.
    """
    predictions, actual, hits = np.zeros((3, len(truth), classes - 1))
    for column, label in enumerate(range(1, classes)):
        here, there = predicted == label, truth == label
        predictions[:, column] = np.count_nonzero(here, axis=(1, 2))
        actual[:, column] = np.count_nonzero(there, axis=(1, 2))
        hits[:, column] = np.count_nonzero(here & there, axis=(1, 2))
    # The rule for empty masks is where these denominators are 0.
    return {
        "dice": divide(2 * hits, predictions + actual),
        "iou": divide(hits, predictions + actual - hits),
        "sensitivity": divide(hits, actual),
        "precision": divide(hits, predictions),
    }


def score_surface(predicted: Numbers, truth: Numbers, *, classes: int) -> dict[str, Floats]:
    """Compare the surfaces of each image and foreground class.

    HD95, in pixels: the 95th percentile of the distances from the surface of the prediction to
    the nearest point of the true one, or the same the other way round, whichever is larger
    (Huttenlocher et al., 1993, "Comparing Images Using the Hausdorff Distance", with MONAI's
    percentile). NSD: the share of both surfaces that is no farther from the other than a tolerance
    (Nikolov et al., 2021, "Clinically Applicable Segmentation of Head and Neck Anatomy for
    Radiotherapy"), which is 2 pixels of an image that is 128 pixels wide, in proportion for other
    widths, and at least 1 pixel. Surfaces are measured by their number of pixels, as in Seidlitz
    et al. (2022), "Robust Deep Learning-Based Semantic Organ Segmentation".

    Args:
        predicted: Predicted class ids [N, H, W].
        truth: True class ids [N, H, W].
        classes: Number of classes C, background included.

    Returns:
        ``hd95`` and ``nsd``, [N, C - 1] each, NaN where undefined.
    """
    from monai.metrics import utils as monai  # which takes seconds to import

    height, width = truth.shape[1:]
    tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * width)
    hd95, nsd = np.full((2, len(truth), classes - 1), np.nan)
    for image, column in np.ndindex(hd95.shape):
        here, there = predicted[image] == column + 1, truth[image] == column + 1
        if here.any() and there.any():
            # Without its crop MONAI is up to twice as fast at 128 px.
            edges = monai.get_mask_edges(here, there, crop=False)
            ways = [monai.get_surface_distance(*pair) for pair in (edges, edges[::-1])]
            hd95[image, column] = max(np.percentile(way, _PERCENTILE) for way in ways)
            nsd[image, column] = (np.concatenate(ways) <= tolerance).mean()
        elif here.any() or there.any():
            hd95[image, column] = np.hypot(height, width)
            nsd[image, column] = 0
    return {"hd95": hd95, "nsd": nsd}


def compute_dice(predicted: Numbers, truth: Numbers, weights: Floats) -> Floats:
    """Average the Dice coefficient. Arguments and result as in the module docstring."""
    return _compute(score_overlap, "dice", predicted, truth, weights)


def compute_iou(predicted: Numbers, truth: Numbers, weights: Floats) -> Floats:
    """Average the intersection over union."""
    return _compute(score_overlap, "iou", predicted, truth, weights)


def compute_hd95(predicted: Numbers, truth: Numbers, weights: Floats) -> Floats:
    """Average the 95th percentile of the Hausdorff distance, in pixels."""
    return _compute(score_surface, "hd95", predicted, truth, weights)


def compute_nsd(predicted: Numbers, truth: Numbers, weights: Floats) -> Floats:
    """Average the normalised surface Dice."""
    return _compute(score_surface, "nsd", predicted, truth, weights)


def compute_sensitivity(predicted: Numbers, truth: Numbers, weights: Floats) -> Floats:
    """Average the sensitivity (recall)."""
    return _compute(score_overlap, "sensitivity", predicted, truth, weights)


def compute_precision(predicted: Numbers, truth: Numbers, weights: Floats) -> Floats:
    """Average the precision."""
    return _compute(score_overlap, "precision", predicted, truth, weights)


SEGMENTATION: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("dice", "Dice", compute_dice, True),
        Metric("iou", "IoU", compute_iou, True),
        Metric("hd95", "HD95 (px)", compute_hd95, False),
        Metric("nsd", "Surface Dice", compute_nsd, True),
        Metric("sensitivity", "Sensitivity", compute_sensitivity, True),
        Metric("precision", "Precision", compute_precision, True),
    )
}


def evaluate(predicted: Numbers, truth: Numbers, weights: Floats, *, classes: int) -> Evaluation:
    """Compute every metric of segmentation with its bootstrap interval.

    Args:
        predicted: Predicted class ids [N, H, W], 0 (background) to C - 1.
        truth: True class ids [N, H, W].
        weights: Weights [B, N] of the images, as from ``item_weights``; B may be 0.
        classes: Number of classes C, background included.

    Returns:
        Point estimates, overall and of each class, intervals and replicates; ``classes_scored``
        counts the foreground classes in the truth or the predictions.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value.
        InputError: If MONAI is not installed.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    weights = np.asarray(weights, dtype=np.float64)
    _validate(predicted, truth, classes)
    refuse_weights(weights, len(truth))
    scores = score_overlap(predicted, truth, classes=classes)
    scores |= score_surface(predicted, truth, classes=classes)
    scores = {name: scores[name] for name in SEGMENTATION}
    evaluation = summarise(
        {name: partial(_average, table) for name, table in scores.items()},
        weights,
        classes_scored=int((~np.isnan(scores["dice"])).any(axis=0).sum()),
    )
    once = np.ones((1, len(truth)))
    per_class = {name: _weigh(table, once)[0].tolist() for name, table in scores.items()}
    return replace(
        evaluation,
        per_class={
            name: [None if np.isnan(value) else value for value in values]
            for name, values in per_class.items()
        },
    )


def _validate(predicted: Numbers, truth: Numbers, classes: int) -> None:
    if classes < 2:
        raise ValueError(f"classes must be at least 2, background included, got {classes}")
    if truth.ndim != 3 or 0 in truth.shape:
        raise ValueError(f"truth must be [N, H, W], each at least 1, got shape {truth.shape}")
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted must have shape {truth.shape}, got {predicted.shape}")
    for name, ids in (("predicted", predicted), ("truth", truth)):
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} must be integers, got {ids.dtype}")
        if ids.min() < 0 or ids.max() >= classes:
            raise ValueError(f"{name} must be 0 to {classes - 1}, got {ids.min()} to {ids.max()}")


def _compute(
    score: Callable[..., dict[str, Floats]],
    name: str,
    predicted: Numbers,
    truth: Numbers,
    weights: Floats,
) -> Floats:
    # Classes beyond the last that occurs change no value.
    classes = int(max(predicted.max(), truth.max())) + 1
    return _average(score(predicted, truth, classes=classes)[name], weights)


def _weigh(scores: Floats, weights: Floats) -> Floats:
    """Average scores [N, C - 1] over the images where they are defined, [B, C - 1]."""
    defined = ~np.isnan(scores)
    return divide(weights @ np.where(defined, scores, 0), weights @ defined)


def _average(scores: Floats, weights: Floats) -> Floats:
    """Average scores [N, C - 1] over images and then classes, [B]."""
    return average_defined(_weigh(scores, weights))
