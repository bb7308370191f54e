"""Metrics of predicted masks, computed for each image and class and then averaged.

Let N be the number of images, H x W their size in pixels, C of classes, B of weightings. A metric
maps predicted class ids [N, H, W], true ones [N, H, W] and weights [B, N] to values [B]: the mean
over the foreground classes (class 0 is background) of the weighted mean over the images in which
the metric is defined for that class. A class that is defined in no image is left out, so classes
that never occur have no effect; NaN if all are left out. The module ``evaluation`` explains the
weights. Maier-Hein et al. (2024), "Metrics Reloaded", Nature Methods 21, discuss the choice of
metrics.

With P the pixels of a class in the prediction and T those in the truth of one image, empty masks
count as follows:

| metric      | P and T empty | only T empty | only P empty |
| ----------- | ------------- | ------------ | ------------ |
| dice        | undefined     | 0            | 0            |
| iou         | undefined     | 0            | 0            |
| nsd         | undefined     | 0            | 0            |
| hd95        | undefined     | diagonal     | diagonal     |
| sensitivity | undefined     | undefined    | 0            |
| precision   | undefined     | 0            | undefined    |

The diagonal of the image, sqrt(H^2 + W^2), exceeds the distance of any two of its pixels: missing a
structure is worse than finding it anywhere.

The surface of a mask consists of its pixels with at least one of their 4 neighbours outside the
mask or the image. Distances are between the centres of pixels, in pixels.
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
_LEAST_TOLERANCE = 1.0  # pixels: neighbouring pixels always match


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
    positive, actual, hits = np.zeros((3, len(truth), classes - 1))
    for column, label in enumerate(range(1, classes)):
        in_prediction, in_truth = predicted == label, truth == label
        positive[:, column] = np.count_nonzero(in_prediction, axis=(1, 2))
        actual[:, column] = np.count_nonzero(in_truth, axis=(1, 2))
        hits[:, column] = np.count_nonzero(in_prediction & in_truth, axis=(1, 2))
    # Empty masks are undefined where these denominators are 0.
    return {
        "dice": divide(2 * hits, positive + actual),
        "iou": divide(hits, positive + actual - hits),
        "sensitivity": divide(hits, actual),
        "precision": divide(hits, positive),
    }


def score_surface(predicted: Numbers, truth: Numbers, *, classes: int) -> dict[str, Floats]:
    """Compare the surfaces of each image and foreground class.

    HD95, in pixels: the 95th percentile of the distances from the surface of the prediction to
    the nearest point of the true one, or the same in the other direction, whichever is larger
    (Huttenlocher et al., 1993, "Comparing Images Using the Hausdorff Distance", with MONAI's
    percentile). NSD: the share of both surfaces within a tolerance of the other (Nikolov et al.,
    2021, "Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy"). The
    tolerance is 2 pixels for images 128 pixels wide, in proportion for other widths, and at least
    1 pixel. Surfaces are measured by their number of pixels, as in Seidlitz et al. (2022), "Robust
    Deep Learning-Based Semantic Organ Segmentation".

    Args:
        predicted: Predicted class ids [N, H, W].
        truth: True class ids [N, H, W].
        classes: Number of classes C, background included.

    Returns:
        ``hd95`` and ``nsd``, [N, C - 1] each, NaN where undefined.
    """
    from monai.metrics import utils as monai  # takes seconds to import

    height, width = truth.shape[1:]
    tolerance = max(_LEAST_TOLERANCE, _TOLERANCE * width)
    hd95, nsd = np.full((2, len(truth), classes - 1), np.nan)
    for image, column in np.ndindex(hd95.shape):
        masks = predicted[image] == column + 1, truth[image] == column + 1
        present = [mask.any() for mask in masks]
        if all(present):
            # Without its crop MONAI is up to twice as fast at 128 px.
            edges = monai.get_mask_edges(*masks, crop=False)
            distances = [monai.get_surface_distance(*pair) for pair in (edges, edges[::-1])]
            hd95[image, column] = max(np.percentile(each, _PERCENTILE) for each in distances)
            nsd[image, column] = (np.concatenate(distances) <= tolerance).mean()
        elif any(present):
            hd95[image, column] = np.hypot(height, width)
            nsd[image, column] = 0
    return {"hd95": hd95, "nsd": nsd}


def _compute(
    score: Callable[..., dict[str, Floats]],
    name: str,
    predicted: Numbers,
    truth: Numbers,
    weights: Floats,
) -> Floats:
    """Average a score over images and classes; shapes as in the module docstring."""
    # Classes beyond the last one that occurs have no effect.
    classes = int(max(predicted.max(), truth.max())) + 1
    return _average(score(predicted, truth, classes=classes)[name], weights)


SEGMENTATION: dict[str, Metric] = {
    name: Metric(name, title, partial(_compute, score, name), higher_is_better)
    for name, title, score, higher_is_better in (
        ("dice", "Dice", score_overlap, True),
        ("iou", "IoU", score_overlap, True),
        ("hd95", "HD95 (px)", score_surface, False),
        ("nsd", "Surface Dice", score_surface, True),
        ("sensitivity", "Sensitivity", score_overlap, True),
        ("precision", "Precision", score_overlap, True),
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


def _weigh(scores: Floats, weights: Floats) -> Floats:
    """Average scores [N, C - 1] over the images where they are defined, [B, C - 1]."""
    defined = ~np.isnan(scores)
    return divide(weights @ np.where(defined, scores, 0), weights @ defined)


def _average(scores: Floats, weights: Floats) -> Floats:
    """Average scores [N, C - 1] over images and then classes, [B]."""
    return average_defined(_weigh(scores, weights))
