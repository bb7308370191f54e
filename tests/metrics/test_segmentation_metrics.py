"""Metrics of segmentation against slow loops, MONAI's own functions and values known by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai import metrics as monai_metrics

from medtransfer.metrics import METRICS, SEGMENTATION, evaluate, interval, item_weights
from medtransfer.metrics.segmentation import score_overlap, score_surface

CLOSE = {"rtol": 1e-6, "atol": 1e-9}
NAMES = ["dice", "iou", "hd95", "nsd", "sensitivity", "precision"]
seeds = st.integers(0, 2**32 - 1)


def draw_masks(rng, n, *, classes=3, size=(11, 14)):
    """Class ids [n, H, W] of every sort: noise, boxes (some at the border), dots, empty, full."""
    masks = np.zeros((n, *size), dtype=np.uint8)
    for mask in masks:
        sort = rng.choice(["noise", "boxes", "dots", "empty", "full"], p=[0.2, 0.5, 0.1, 0.1, 0.1])
        if sort == "noise":
            mask[:] = rng.integers(0, classes, size)
        elif sort == "full":
            mask[:] = rng.integers(1, classes)
        elif sort == "dots":
            mask[tuple(rng.integers(0, size))] = rng.integers(1, classes)
        elif sort == "boxes":
            for label in range(1, classes):
                top, left = rng.integers(0, size)
                height, width = rng.integers(1, 8, 2)
                mask[top : top + height, left : left + width] = label
    return masks


def score(predicted, truth, *, classes=3):
    """All tables of one pair of stacks."""
    scores = score_overlap(predicted, truth, classes=classes)
    return scores | score_surface(predicted, truth, classes=classes)


def score_slowly(predicted, truth):
    """One image and class from two boolean masks, pixel by pixel."""
    height, width = truth.shape
    found = [tuple(p) for p in np.argwhere(predicted)]
    actual = [tuple(p) for p in np.argwhere(truth)]
    hits = len({*found} & {*actual})
    either = len({*found} | {*actual})
    values = {
        "dice": hits / ((len(found) + len(actual)) / 2) if either else np.nan,
        "iou": hits / either if either else np.nan,
        "sensitivity": hits / len(actual) if actual else np.nan,
        "precision": hits / len(found) if found else np.nan,
    }
    if not either:
        return values | {"hd95": np.nan, "nsd": np.nan}
    if not found or not actual:
        return values | {"hd95": (height**2 + width**2) ** 0.5, "nsd": 0.0}
    here, there = trace_slowly(found), trace_slowly(actual)
    forth = sorted(min(np.hypot(a - c, b - d) for c, d in there) for a, b in here)
    back = sorted(min(np.hypot(a - c, b - d) for c, d in here) for a, b in there)
    near = sum(distance <= max(1, width / 64) for distance in forth + back)
    worst = max(find_quantile_slowly(forth), find_quantile_slowly(back))
    return values | {"hd95": worst, "nsd": near / len(forth + back)}


def trace_slowly(pixels):
    """The pixels with a 4-neighbour that is not one of them."""
    inside = {*pixels}
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    return [(a, b) for a, b in pixels if any((a + i, b + j) not in inside for i, j in steps)]


def find_quantile_slowly(ordered):
    place = 0.95 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@pytest.mark.parametrize("size", [(11, 14), (14, 11), (1, 9), (4, 100)])
def test_scores_match_slow_loops(size):
    """Every table equals a pixel-by-pixel computation, also for empty, full and one-pixel masks."""
    rng = np.random.default_rng(sum(size))
    predicted, truth = (draw_masks(rng, 60, classes=4, size=size) for _ in range(2))
    for row, ids in enumerate(np.ndindex(3, 3)):  # empty and full against each other, for certain
        predicted[row], truth[row] = ids
    scores = score(predicted, truth, classes=4)
    assert sorted(scores) == sorted(NAMES)
    for image, label in np.ndindex(60, 3):
        slow = score_slowly(predicted[image] == label + 1, truth[image] == label + 1)
        fast = {name: table[image, label] for name, table in scores.items()}
        for name in NAMES:
            np.testing.assert_allclose(fast[name], slow[name], **CLOSE, err_msg=name)


def test_scores_match_monai():
    """Where both masks hold something, MONAI's own four metrics give the same."""
    rng = np.random.default_rng(3)
    predicted, truth = (draw_masks(rng, 80, size=(40, 128)) for _ in range(2))
    scores = score(predicted, truth)
    here, there = (
        torch.from_numpy(masks[:, None] == np.arange(3)[:, None, None])
        for masks in (predicted, truth)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty masks, and about an argument of MONAI's own
        expected = {
            "dice": monai_metrics.compute_dice(here, there, include_background=False),
            "iou": monai_metrics.compute_iou(here, there, include_background=False),
            "hd95": monai_metrics.compute_hausdorff_distance(here, there, percentile=95),
            "nsd": monai_metrics.compute_surface_dice(here, there, [2.0, 2.0]),
        }
    both = here.any(dim=(2, 3))[:, 1:] & there.any(dim=(2, 3))[:, 1:]
    assert both.sum() > 40
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name][both], values[both], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (0, 0, [None, None, None, None, None, None]),
        (0, 1, [0, 0, 5, 0, 0, None]),
        (1, 0, [0, 0, 5, 0, None, 0]),
        (1, 1, [1, 1, 0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("pixels", [1, 12])
def test_empty_masks(pixels, predicted, truth, expected):
    """Both empty is undefined; one empty is the worst value, or undefined where it must be."""
    stacks = np.zeros((2, 1, 3, 4), dtype=np.uint8)
    stacks[0].flat[:pixels], stacks[1].flat[:pixels] = predicted, truth
    evaluation = evaluate(*stacks, np.ones((2, 1)), kind="segmentation", classes=2)
    assert list(evaluation.values.values()) == expected
    assert evaluation.per_class == {n: [v] for n, v in zip(NAMES, expected, strict=True)}
    assert evaluation.classes_scored == int(bool(predicted or truth))
    for name, value in zip(NAMES, expected, strict=True):
        np.testing.assert_array_equal(evaluation.replicates[name], np.array([value] * 2, float))
        assert evaluation.intervals[name] == (None if value is None else (value, value))
        alone = SEGMENTATION[name].function(*stacks, np.ones((1, 1)))
        np.testing.assert_array_equal(alone, np.array([value], float))


@pytest.mark.parametrize(
    ("width", "shift", "near"),
    [(16, 1, 1), (16, 2, 0), (64, 1, 1), (64, 2, 0), (128, 2, 1), (128, 3, 0), (256, 4, 1)],
)
@pytest.mark.parametrize("height", [8, 200])
def test_tolerance_follows_the_width(height, width, shift, near):
    """A line is near enough up to 2 px of 128 in proportion, whatever the height, or 1 px."""
    stacks = np.zeros((2, 1, height, width), dtype=np.uint8)
    stacks[0, :, :, 5] = stacks[1, :, :, 5 + shift] = 1
    scores = score_surface(*stacks, classes=2)
    assert scores["nsd"].item() == near
    assert scores["hd95"].item() == shift


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_scores_keep_their_symmetries(seed):
    """Swapping the arguments swaps sensitivity and precision and changes nothing else."""
    rng = np.random.default_rng(seed)
    predicted, truth = draw_masks(rng, 4), draw_masks(rng, 4)
    forth, back = score(predicted, truth), score(truth, predicted)
    swapped = {"sensitivity": "precision", "precision": "sensitivity"}
    for name in NAMES:
        np.testing.assert_array_equal(forth[name], back[swapped.get(name, name)])


@settings(max_examples=40, deadline=None)
@given(seeds, st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
def test_scores_do_not_depend_on_the_place(seed, shift):
    """Moving both masks together, away from the border, changes nothing."""
    rng = np.random.default_rng(seed)
    stacks = [np.pad(draw_masks(rng, 3), ((0, 0), (3, 3), (3, 3))) for _ in range(2)]
    moved = [np.roll(masks, shift, axis=(1, 2)) for masks in stacks]
    still, gone = score(*stacks), score(*moved)
    for name in NAMES:
        np.testing.assert_array_equal(still[name], gone[name])


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_scores_keep_their_relations(seed):
    """Dice = 2 IoU / (1 + IoU), and is the harmonic mean of sensitivity and precision."""
    rng = np.random.default_rng(seed)
    truth = draw_masks(rng, 6)
    predicted = np.where(rng.random(truth.shape) < 0.2, draw_masks(rng, 6), truth)
    scores = score(predicted, truth)
    dice, iou = scores["dice"], scores["iou"]
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou), **CLOSE)
    found = (scores["sensitivity"] > 0) & (scores["precision"] > 0)
    harmonic = 2 / (1 / scores["sensitivity"][found] + 1 / scores["precision"][found])
    np.testing.assert_allclose(dice[found], harmonic, **CLOSE)
    for name in set(NAMES) - {"hd95"}:
        assert np.nanmin(scores[name], initial=0) >= 0
        assert np.nanmax(scores[name], initial=1) <= 1
    assert np.nanmax(scores["hd95"], initial=0) <= np.hypot(*truth.shape[1:])


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_weights_are_copies(seed):
    """A replicate is the metric on images repeated as often as their weights say."""
    rng = np.random.default_rng(seed)
    predicted, truth = draw_masks(rng, 6), draw_masks(rng, 6)
    weights = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(np.float64)
    evaluation = evaluate(predicted, truth, weights, kind="segmentation", classes=3)
    for row, copies in enumerate(weights.astype(int)):
        repeated = predicted.repeat(copies, axis=0), truth.repeat(copies, axis=0)
        for name, metric in SEGMENTATION.items():
            expected = metric.function(*repeated, np.ones((1, 6))).item()
            np.testing.assert_allclose(evaluation.replicates[name][row], expected, **CLOSE)


def test_images_are_averaged_before_classes():
    """A class counts as much as another, though it is defined in fewer images."""
    truth = np.zeros((3, 2, 4), dtype=np.uint8)
    predicted = truth.copy()
    truth[:, 0] = 1
    predicted[:2, 0, :2] = 1  # of class 1 half of it, half of it, nothing
    truth[2, 1] = predicted[2, 1] = 2  # of class 2 all, in one image; of class 3 nothing ever
    evaluation = evaluate(predicted, truth, np.ones((0, 3)), kind="segmentation", classes=4)
    half, diagonal = 2 / 3, 20**0.5
    # Distances to half a line of four: 0, 0, 1, 2, of which the 95th percentile is 1.85.
    expected = {
        "dice": [2 * half / 3, 1, None],
        "iou": [1 / 3, 1, None],
        "hd95": [(2 * 1.85 + diagonal) / 3, 0, None],
        "nsd": [2 * (5 / 6) / 3, 1, None],
        "sensitivity": [1 / 3, 1, None],
        "precision": [1, 1, None],
    }
    assert (evaluation.n, evaluation.classes_scored) == (3, 2)
    assert list(evaluation.per_class) == NAMES
    for name, (first, second, _) in expected.items():
        assert evaluation.per_class[name] == pytest.approx(expected[name])
        assert evaluation.values[name] == pytest.approx((first + second) / 2)
        assert evaluation.replicates[name].shape == (0,)


def test_evaluation_is_complete():
    """Every registered metric has a value, its replicates, and an interval made of them."""
    rng = np.random.default_rng(0)
    predicted, truth = draw_masks(rng, 40), draw_masks(rng, 40)
    weights = item_weights("task", "split", 40)
    evaluation = evaluate(predicted, truth, weights, kind="segmentation", classes=3)
    assert METRICS["segmentation"] is SEGMENTATION
    assert list(SEGMENTATION) == [m.name for m in SEGMENTATION.values()] == NAMES
    for entries in (evaluation.values, evaluation.intervals, evaluation.replicates):
        assert list(entries) == NAMES
    for name, metric in SEGMENTATION.items():
        assert evaluation.values[name] == metric.function(predicted, truth, np.ones((1, 40))).item()
        assert evaluation.intervals[name] == interval(evaluation.replicates[name])
        assert len(np.unique(evaluation.replicates[name])) > 100


def test_perfect_masks_have_the_best_values():
    """The truth itself scores 1 where higher is better and 0 where lower is."""
    truth = draw_masks(np.random.default_rng(1), 20)
    evaluation = evaluate(truth, truth, np.ones((1, 20)), kind="segmentation", classes=3)
    assert evaluation.values == {n: float(m.higher_is_better) for n, m in SEGMENTATION.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "segmentation needs the number of classes"),
        ({"classes": 1}, "classes must be at least 2, background included, got 1"),
        ({"labels": np.zeros((4, 8), dtype=np.uint8)}, r"truth must be \[N, H, W\].*\(4, 8\)"),
        ({"labels": np.zeros((0, 8, 8), dtype=np.uint8)}, "each at least 1"),
        ({"probabilities": np.zeros((4, 8, 9), dtype=np.uint8)}, r"\(4, 8, 8\), got \(4, 8, 9\)"),
        ({"probabilities": np.zeros((4, 8, 8))}, "predicted must be integers, got float64"),
        ({"labels": np.full((4, 8, 8), 3, dtype=np.uint8)}, "truth must be 0 to 2, got 3 to 3"),
        ({"labels": np.full((4, 8, 8), -1)}, "truth must be 0 to 2, got -1 to -1"),
        ({"probabilities": np.full((4, 8, 8), 3)}, "predicted must be 0 to 2, got 3 to 3"),
        ({"weights": np.ones((1, 5))}, r"weights must have shape \(B, 4\), got \(1, 5\)"),
        ({"weights": np.full((1, 4), np.nan)}, "weights must be finite"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    """A wrong argument raises an error that names it and what would be right."""
    masks = np.zeros((4, 8, 8), dtype=np.uint8)
    arguments = {"probabilities": masks, "labels": masks, "weights": np.ones((1, 4)), "classes": 3}
    with pytest.raises(ValueError, match=message):
        evaluate(**(arguments | change), kind="segmentation")
