"""Metrics against scikit-learn and slow loops, and the laws of metrics and bootstrap weights."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from medtransfer.metrics import MULTICLASS, classification, evaluate, interval, item_weights

CLOSE = {"rtol": 0, "atol": 1e-9}
THRESHOLD_FREE = ("auroc", "average_precision")
PINNED = [[3, 1, 0, 0, 3, 1, 0, 0], [0, 2, 1, 0, 2, 1, 1, 1]]


def draw_case(seed, n, classes, *, ties=False, absent=0):
    """Probabilities [n, classes] and labels [n] that leave out the last ``absent`` classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - absent, n)
    if ties:
        return rng.multinomial(4, np.full(classes, 1 / classes), n) / 4, labels
    logits = rng.normal(size=(n, classes)) + np.eye(classes)[labels]
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True), labels


def compute(name, probabilities, labels, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    return MULTICLASS[name].function(probabilities, labels, weights[None]).item()


def compute_by_sklearn(name, probabilities, labels, weights=None):
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    if name in THRESHOLD_FREE:
        function = {
            "auroc": sklearn_metrics.roc_auc_score,
            "average_precision": sklearn_metrics.average_precision_score,
        }[name]
        scores = [
            function(labels == k, probabilities[:, k], sample_weight=weights)
            for k in ([1] if classes == 2 else range(classes))
            if 0 < (labels == k).sum() < (len(labels) + (name != "auroc"))
        ]
        return np.mean(scores) if scores else np.nan
    if name == "accuracy":
        return sklearn_metrics.accuracy_score(labels, predicted, sample_weight=weights)
    if name == "balanced_accuracy":
        return sklearn_metrics.recall_score(
            labels, predicted, labels=np.unique(labels), average="macro", sample_weight=weights
        )
    if name == "f1":
        return sklearn_metrics.f1_score(
            labels, predicted, average="macro", zero_division=0, sample_weight=weights
        )
    if name == "brier":
        targets = np.eye(classes)[labels]
        mean = sklearn_metrics.mean_squared_error(targets, probabilities, sample_weight=weights)
        return classes * mean
    return compute_ece_slowly(probabilities, labels, weights)


def compute_ece_slowly(probabilities, labels, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for lower, upper in pairwise(edges):
        hits = confidences = 0.0
        for row, label, weight in zip(probabilities, labels, weights, strict=True):
            if lower < row.max() <= upper:
                hits += weight * (row.argmax() == label)
                confidences += weight * row.max()
        total += abs(hits - confidences)
    return total / weights.sum()


cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.integers(1, 60),  # items
    st.sampled_from([(2, 0), (2, 1), (3, 0), (4, 2), (7, 0)]),  # classes, absent ones
    st.booleans(),  # ties
)
deterministic = settings(derandomize=True, deadline=None, max_examples=40, database=None)
every_metric = pytest.mark.parametrize("name", MULTICLASS)


@every_metric
@given(case=cases)
@deterministic
def test_point_estimates_agree_with_a_second_implementation(name, case):
    """With unit weights every metric is scikit-learn's, ties and absent classes included."""
    seed, n, (classes, absent), ties = case
    predictions = draw_case(seed, n, classes, ties=ties, absent=absent)
    expected = compute_by_sklearn(name, *predictions)
    np.testing.assert_allclose(compute(name, *predictions), expected, **CLOSE)


@every_metric
@given(case=cases)
@deterministic
def test_fractional_weights_agree_with_a_second_implementation(name, case):
    """Positive weights mean what scikit-learn's sample_weight means."""
    seed, n, (classes, absent), ties = case
    predictions = draw_case(seed, n, classes, ties=ties, absent=absent)
    weights = np.random.default_rng(seed).uniform(0.1, 3, n)
    expected = compute_by_sklearn(name, *predictions, weights)
    np.testing.assert_allclose(compute(name, *predictions, weights), expected, **CLOSE)


@every_metric
@given(case=cases)
@deterministic
def test_whole_weights_repeat_items(name, case):
    """A weight of k is k copies of the item, and 0 its absence."""
    seed, n, (classes, absent), ties = case
    probabilities, labels = draw_case(seed, n, classes, ties=ties, absent=absent)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n))
    repeated = np.repeat(probabilities, counts, axis=0), np.repeat(labels, counts)
    value = compute(name, probabilities, labels, counts.astype(float))
    np.testing.assert_allclose(value, compute(name, *repeated), **CLOSE)
    np.testing.assert_allclose(value, compute_by_sklearn(name, *repeated), **CLOSE)


@every_metric
@pytest.mark.parametrize("ties", [False, True])
def test_rows_of_weights_are_independent(name, ties, monkeypatch):
    """Many weightings at once, in blocks that do not divide them, equal one at a time."""
    predictions = draw_case(0, 50, 4, ties=ties)
    weights = item_weights("task", "split", 50, replicates=17)
    expected = [compute(name, *predictions, row) for row in weights]
    monkeypatch.setattr(classification, "_BLOCK", 3 * 50)
    values = MULTICLASS[name].function(*predictions, weights)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


@every_metric
def test_a_row_without_weight_is_undefined(name):
    """No items, no value, and no warning."""
    assert np.isnan(compute(name, *draw_case(0, 20, 3), np.zeros(20)))


@every_metric
@pytest.mark.parametrize("ties", [False, True])
def test_order_of_items_does_not_matter(name, ties):
    """Permuting the items leaves every metric as it is."""
    probabilities, labels = draw_case(1, 200, 5, ties=ties)
    order = np.random.default_rng(2).permutation(200)
    permuted = compute(name, probabilities[order], labels[order])
    np.testing.assert_allclose(permuted, compute(name, probabilities, labels), rtol=0, atol=1e-12)


@every_metric
def test_names_of_classes_do_not_matter(name):
    """Permuting three or more classes leaves every metric as it is."""
    probabilities, labels = draw_case(1, 200, 5)
    order = np.random.default_rng(2).permutation(5)
    permuted = compute(name, probabilities[:, order], np.argsort(order)[labels])
    np.testing.assert_allclose(permuted, compute(name, probabilities, labels), **CLOSE)


@pytest.mark.parametrize("ties", [False, True])
def test_only_the_order_of_scores_matters_to_auroc(ties):
    """AUROC is the same for scores and their ranks, and reversed for reversed ranks."""
    probabilities, labels = draw_case(3, 100, 3, ties=ties)
    targets, weights = np.eye(3, dtype=bool)[labels], item_weights("task", "split", 100)
    ranks = np.stack([np.unique(s, return_inverse=True)[1] for s in probabilities.T], axis=1)
    auroc = classification.score_auroc(probabilities, targets, weights)
    np.testing.assert_array_equal(classification.score_auroc(ranks, targets, weights), auroc)
    reverse = classification.score_auroc(-probabilities, targets, weights)
    np.testing.assert_allclose(reverse, 1 - auroc, rtol=0, atol=1e-12)


def test_one_vs_rest_scores_take_overlapping_targets():
    """The per-column scores need no exclusive classes, as with several labels an item."""
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 9, (80, 3)) / 8, rng.random((80, 3)) < 0.4
    for function, reference in (
        (classification.score_auroc, sklearn_metrics.roc_auc_score),
        (classification.score_average_precision, sklearn_metrics.average_precision_score),
    ):
        expected = reference(targets, scores, average=None)
        np.testing.assert_allclose(
            function(scores, targets, np.ones((1, 80)))[0], expected, **CLOSE
        )


@pytest.mark.parametrize("classes", [2, 4])
def test_perfect_predictions(classes):
    """Certain and right: 1 for scores, 0 for errors."""
    labels = np.arange(20) % classes
    values = evaluate(np.eye(classes)[labels], labels, np.ones((1, 20))).values
    assert values == {name: float(m.higher_is_better) for name, m in MULTICLASS.items()}


@pytest.mark.parametrize("classes", [2, 4])
def test_constant_predictions_are_at_chance(classes):
    """Equal scores for all items give every metric with a chance level exactly that level."""
    labels = np.arange(20) % classes
    values = evaluate(np.full((20, classes), 1 / classes), labels, np.ones((1, 20))).values
    chances = {name: m.chance(classes) for name, m in MULTICLASS.items() if m.chance}
    assert chances == {"auroc": 0.5, "balanced_accuracy": 1 / classes}
    assert {name: values[name] for name in chances} == chances
    assert values["average_precision"] == pytest.approx(1 / classes)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_single_class_leaves_auroc_undefined(classes):
    """With one class in the labels AUROC is None, not 0, and so is its interval."""
    probabilities, _ = draw_case(0, 30, classes)
    evaluation = evaluate(probabilities, np.zeros(30, dtype=int), item_weights("t", "s", 30))
    assert evaluation.values["auroc"] is None
    assert evaluation.intervals["auroc"] is None
    assert evaluation.classes_scored == 0
    assert np.isnan(evaluation.replicates["auroc"]).all()
    assert (evaluation.values["average_precision"] is None) == (classes == 2)
    assert evaluation.values["accuracy"] is not None


def test_ece_bins_are_closed_above():
    """A confidence on a bin's edge is in the bin below it, one rounded above 1 in the last."""
    edges = np.linspace(0, 1, 16)
    for top in (*edges[8:15], 1 + 5e-5):
        confidence = np.array([top, top - 0.01])  # in one bin, so a hit and a miss offset
        probabilities = np.stack([1 - confidence, confidence], axis=1)
        expected = abs(1 - confidence.sum()) / 2
        assert compute("ece", probabilities, np.array([1, 0])) == pytest.approx(expected)


def test_binary_brier_is_twice_that_of_class_one():
    """Both classes' errors count, scikit-learn's binary score counts one."""
    probabilities, labels = draw_case(0, 50, 2)
    expected = 2 * sklearn_metrics.brier_score_loss(labels, probabilities[:, 1])
    np.testing.assert_allclose(compute("brier", probabilities, labels), expected, **CLOSE)


def test_evaluation_is_complete():
    """Every registered metric has a value, its replicates, and an interval made of them."""
    predictions = draw_case(0, 100, 4, absent=1)
    weights = item_weights("task", "split", 100)
    evaluation = evaluate(*predictions, weights)
    assert (evaluation.n, evaluation.classes_scored) == (100, 3)
    for entries in (evaluation.values, evaluation.intervals, evaluation.replicates):
        assert list(entries) == list(MULTICLASS) == [m.name for m in MULTICLASS.values()]
    for name, metric in MULTICLASS.items():
        assert evaluation.values[name] == compute(name, *predictions)
        np.testing.assert_array_equal(
            evaluation.replicates[name], metric.function(*predictions, weights)
        )
        assert evaluation.intervals[name] == interval(evaluation.replicates[name])


def test_evaluation_without_replicates_has_no_intervals():
    """No replicates: the values stand and every interval is None."""
    evaluation = evaluate(*draw_case(0, 20, 3), np.empty((0, 20)))
    assert None not in evaluation.values.values()
    assert set(evaluation.intervals.values()) == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.full(4, 0.5)}, r"probabilities must be \[N, C\].*\(4,\)"),
        ({"probabilities": np.ones((4, 1))}, "C at least 2"),
        ({"probabilities": np.empty((0, 2))}, "N at least 1"),
        ({"probabilities": np.full((4, 2), np.nan)}, "not finite in 4 of 4 rows"),
        ({"probabilities": np.array([[0.5, 0.5]] * 3 + [[1.5, -0.5]])}, "negative in 1.*row 3"),
        ({"probabilities": np.full((4, 2), 0.501)}, "not summing to one within 0.0001"),
        ({"labels": np.zeros(3, dtype=int)}, r"labels must have shape \(4,\), got \(3,\)"),
        ({"labels": np.zeros(4)}, "labels must be integers, got float64"),
        ({"labels": np.array([0, 1, 2, 0])}, "labels must be 0 to 1, got 0 to 2"),
        ({"labels": np.array([0, 1, -1, 0])}, "labels must be 0 to 1, got -1 to 1"),
        ({"weights": np.ones(4)}, r"weights must have shape \(B, 4\), got \(4,\)"),
        ({"weights": np.full((1, 4), -1)}, "weights must be finite and not negative"),
        ({"weights": np.full((1, 4), np.inf)}, "weights must be finite and not negative"),
    ],
)
def test_invalid_input_is_named(change, message):
    """What cannot be scored is refused with its reason."""
    valid = {
        "probabilities": np.full((4, 2), 0.5),
        "labels": np.array([0, 1, 1, 0]),
        "weights": np.ones((2, 4)),
    }
    evaluate(**valid)
    with pytest.raises(ValueError, match=message):
        evaluate(**valid | change)


def test_item_weights_never_change():
    """The weights are pinned: they may not depend on machine, process or library version."""
    first = item_weights("pneumonia", "in_domain", 8, replicates=2)
    assert first.tolist() == PINNED
    np.testing.assert_array_equal(item_weights("pneumonia", "in_domain", 8)[:2], first)


def test_item_weights_differ_between_tasks_and_splits():
    """Each task and each split has weights of its own."""
    names = [("a", "x"), ("a", "y"), ("b", "x")]
    assert len({item_weights(*name, 50).tobytes() for name in names}) == len(names)


def test_item_weights_are_multinomial():
    """Rows sum to n; counts have the multinomial's mean 1 and variance 1 - 1/n."""
    weights = item_weights("task", "split", 40, replicates=4000)
    assert (weights.sum(axis=1) == 40).all()
    assert (weights == weights.round()).all()
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.08)  # five standard errors
    assert weights.var() == pytest.approx(1 - 1 / 40, rel=0.03)


def test_groups_are_drawn_whole():
    """All items of a group have its count, and as many groups are drawn as there are."""
    groups = ["b", "a", "b", "c", "a", "b", 7]
    weights = item_weights("task", "split", 7, groups=groups)
    np.testing.assert_array_equal(weights[:, [0, 0, 1]], weights[:, [2, 5, 4]])
    assert (weights[:, [0, 1, 3, 6]].sum(axis=1) == 4).all()
    assert len(np.unique(weights[:, [0, 1, 3, 6]], axis=0)) > 20


def test_groups_of_one_item_are_no_groups():
    """If every item is a group of its own, the weights are those without groups."""
    single = item_weights("task", "split", 9, groups=list("ihgfedcba"))
    np.testing.assert_array_equal(single, item_weights("task", "split", 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"replicates": 0}, "replicates must be at least 1, got 0"),
        ({"groups": ["a"]}, "groups has 1 entries for 3 items"),
    ],
)
def test_impossible_item_weights_are_refused(change, message):
    """A fault in the arguments is named."""
    with pytest.raises(ValueError, match=message):
        item_weights(**{"task": "task", "split": "split", "n": 3} | change)


def test_interval_holds_the_middle_of_the_defined_replicates():
    """2.5 to 97.5 % of the finite values; None if none or fewer than half are finite."""
    values = np.arange(1001.0)
    assert interval(values) == (25.0, 975.0)
    assert interval(np.append(values, [np.nan] * 1001)) == (25.0, 975.0)
    assert interval(np.append(values, [np.nan] * 1002)) is None
    assert interval(np.empty(0)) is None
    with pytest.raises(ValueError, match="one dimension"):
        interval(np.ones((2, 2)))


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_interval_of_accuracy_is_as_wide_as_the_binomials(accuracy):
    """Bootstrap and binomial standard error agree on independent items."""
    labels = (np.arange(400) >= 400 * accuracy).astype(int)
    weights = item_weights("task", "split", 400, replicates=2000)
    lower, upper = evaluate(np.tile([0.6, 0.4], (400, 1)), labels, weights).intervals["accuracy"]
    expected = 2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / 400)
    assert upper - lower == pytest.approx(expected, rel=0.1)
    assert (lower + upper) / 2 == pytest.approx(accuracy, abs=0.01)


def test_metrics_import_numpy_only():
    """Scoring and verifying records waits for no heavy import."""
    code = "import sys, medtransfer.metrics; print({'torch', 'sklearn', 'scipy'} & {*sys.modules})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
