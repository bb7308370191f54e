"""Multi-label metrics against scikit-learn and slow loops."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from medtransfer.metrics import (
    METRICS,
    MULTICLASS,
    MULTILABEL,
    classification,
    evaluate,
    interval,
    item_weights,
)

CLOSE = {"rtol": 0, "atol": 1e-9}


def draw_case(seed, n, width, *, ties=False, unknown=0.0, constant=0):
    """Probabilities and labels [n, width]; the first ``constant`` labels have one kind only."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, width)) < rng.uniform(0.1, 0.7, width)).astype(np.int64)
    labels[:, :constant] = np.arange(constant) % 2
    probabilities = 1 / (1 + np.exp(-rng.normal(size=(n, width)) - labels + 0.5))
    if ties:
        probabilities = (probabilities * 4).round() / 4
    labels[rng.random((n, width)) < unknown] = -1
    return probabilities, labels


def compute(name, probabilities, labels, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    return MULTILABEL[name].function(probabilities, labels, weights[None]).item()


def compute_slowly(name, probabilities, labels, weights=None):
    """Label by label on the known items that have weight, with scikit-learn."""
    weights = np.ones(len(labels)) if weights is None else weights
    values = []
    for scores, truths in zip(probabilities.T, labels.T, strict=True):
        kept = (truths >= 0) & (weights > 0)
        values.append(compute_label(name, truths[kept], scores[kept], weights[kept]))
    defined = [value for value in values if value is not None and not np.isnan(value)]
    return np.mean(defined) if defined else np.nan


def compute_label(name, truths, scores, weights):
    if len(truths) == 0 or (name in ("auroc", "balanced_accuracy") and len({*truths}) < 2):
        return None
    if name == "average_precision" and not truths.any():
        return None
    if name == "ece":
        return compute_ece_slowly(truths, scores, weights)
    predicted = (scores >= 0.5).astype(int)
    function, answers = {
        "auroc": (sklearn_metrics.roc_auc_score, scores),
        "average_precision": (sklearn_metrics.average_precision_score, scores),
        "accuracy": (sklearn_metrics.accuracy_score, predicted),
        "balanced_accuracy": (sklearn_metrics.balanced_accuracy_score, predicted),
        "f1": (sklearn_metrics.f1_score, predicted),
        "brier": (sklearn_metrics.mean_squared_error, scores),
    }[name]
    options = {"zero_division": np.nan} if name == "f1" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where only one kind is left
        return function(truths, answers, sample_weight=weights, **options)


def compute_ece_slowly(truths, scores, weights):
    total = 0.0
    for number, (lower, upper) in enumerate(pairwise(np.linspace(0, 1, 16))):
        inside = (lower < scores) & (scores <= upper) | ((scores == 0) & (number == 0))
        total += abs((weights * (truths - scores))[inside].sum())
    return total / weights.sum()


cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.integers(1, 40),  # items
    st.sampled_from([(1, 0), (2, 2), (5, 2)]),  # labels, those of one kind
    st.booleans(),  # ties
    st.sampled_from([0.0, 0.3, 0.95]),  # share of unknown labels
)
deterministic = settings(derandomize=True, deadline=None, max_examples=25, database=None)
every_metric = pytest.mark.parametrize("name", MULTILABEL)


def draw(case):
    seed, n, (width, constant), ties, unknown = case
    return draw_case(seed, n, width, ties=ties, unknown=unknown, constant=constant)


@every_metric
@given(case=cases)
@deterministic
def test_metrics_agree_with_a_second_implementation(name, case):
    """Every metric is scikit-learn's mean over the labels' own known items."""
    predictions = draw(case)
    np.testing.assert_allclose(
        compute(name, *predictions), compute_slowly(name, *predictions), **CLOSE
    )


@every_metric
@given(case=cases)
@deterministic
def test_fractional_weights_agree_with_a_second_implementation(name, case):
    """Positive weights mean what scikit-learn's sample_weight means."""
    predictions = draw(case)
    weights = np.random.default_rng(case[0]).uniform(0.1, 3, case[1])
    expected = compute_slowly(name, *predictions, weights)
    np.testing.assert_allclose(compute(name, *predictions, weights), expected, **CLOSE)


@every_metric
@given(case=cases)
@deterministic
def test_whole_weights_repeat_items(name, case):
    """A weight of k is k copies of the item, and 0 its absence, whatever is unknown."""
    predictions = draw(case)
    counts = np.random.default_rng(case[0]).multinomial(case[1], np.full(case[1], 1 / case[1]))
    repeated = [np.repeat(array, counts, axis=0) for array in predictions]
    value = compute(name, *predictions, counts.astype(float))
    np.testing.assert_allclose(value, compute_slowly(name, *repeated), **CLOSE)


@every_metric
@given(case=cases)
@deterministic
def test_scores_of_unknown_labels_do_not_matter(name, case):
    """Whatever is predicted where the label is unknown, the value is the same."""
    probabilities, labels = draw(case)
    other = np.random.default_rng(case[0]).random(labels.shape)
    changed = compute(name, np.where(labels < 0, other, probabilities), labels)
    np.testing.assert_allclose(changed, compute(name, probabilities, labels), rtol=0, atol=1e-12)


@every_metric
@given(case=cases)
@deterministic
def test_order_of_labels_and_items_does_not_matter(name, case):
    """Permuting columns, or rows, leaves every metric as it is."""
    predictions = draw(case)
    rng = np.random.default_rng(case[0])
    expected = compute(name, *predictions)
    for axis in (0, 1):
        order = rng.permutation(predictions[1].shape[axis])
        permuted = compute(name, *[array.take(order, axis=axis) for array in predictions])
        np.testing.assert_allclose(permuted, expected, rtol=0, atol=1e-12)


@every_metric
@pytest.mark.parametrize("ties", [False, True])
def test_replicates_are_the_metric_of_the_repeated_items(name, ties, monkeypatch):
    """Each bootstrap replicate, also in blocks that do not divide them, is its own items' value."""
    predictions = draw_case(0, 50, 4, ties=ties, unknown=0.3, constant=1)
    weights = item_weights("task", "split", 50, replicates=17)
    counts = weights.astype(int)
    expected = [
        compute_slowly(name, *[np.repeat(a, row, axis=0) for a in predictions]) for row in counts
    ]
    monkeypatch.setattr(classification, "_BLOCK", 3 * 50)
    replicates = evaluate(*predictions, weights, kind="multilabel").replicates[name]
    np.testing.assert_allclose(replicates, expected, **CLOSE)


@every_metric
def test_a_row_without_weight_is_undefined(name):
    """No items, no value, and no warning."""
    assert np.isnan(compute(name, *draw_case(0, 20, 3), np.zeros(20)))


def test_one_label_is_a_task_of_two_classes():
    """Of a single label every metric is that of the classes absent and present."""
    probabilities, labels = draw_case(0, 100, 1)
    single = evaluate(probabilities, labels, np.ones((1, 100)), kind="multilabel").values
    both = np.hstack([1 - probabilities, probabilities])
    double = evaluate(both, labels[:, 0], np.ones((1, 100))).values
    for name in ("auroc", "average_precision", "accuracy", "balanced_accuracy"):
        assert single[name] == pytest.approx(double[name])
    assert 2 * single["brier"] == pytest.approx(double["brier"])


def test_a_score_of_one_half_is_positive():
    """The threshold itself counts as positive, as in MedMNIST's evaluator."""
    values = evaluate([[0.5], [0.5 - 1e-9]], [[1], [0]], np.ones((1, 2)), kind="multilabel").values
    assert values["accuracy"] == values["balanced_accuracy"] == values["f1"] == 1


def test_ece_compares_positives_with_their_probability():
    """A confident and right negative is calibrated; bins are closed above, and hold zero."""
    edges = np.linspace(0, 1, 16)
    for top in edges[1:]:
        scores = np.array([[top], [top - 0.01]])  # in one bin, so a hit and a miss offset
        expected = abs(1 - scores.sum()) / 2
        assert compute("ece", scores, np.array([[1], [0]])) == pytest.approx(expected)
    assert compute("ece", np.zeros((3, 1)), np.zeros((3, 1), dtype=int)) == 0
    assert compute("ece", np.full((4, 1), 0.25), np.array([[1], [0], [0], [0]])) == 0


def test_perfect_predictions():
    """Certain and right: 1 for scores, 0 for errors."""
    labels = (np.arange(20)[:, None] % [2, 3, 5] == 0).astype(int)
    values = evaluate(labels, labels, np.ones((1, 20)), kind="multilabel").values
    assert values == {name: float(m.higher_is_better) for name, m in MULTILABEL.items()}


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5, 1.0])
def test_constant_predictions_are_at_chance(score):
    """Equal scores for all items give every metric with a chance level exactly that level."""
    labels = (np.arange(20)[:, None] % [2, 4, 5] == 0).astype(int)
    values = evaluate(np.full((20, 3), score), labels, np.ones((1, 20)), kind="multilabel").values
    chances = {name: m.chance(3) for name, m in MULTILABEL.items() if m.chance}
    assert chances == {"auroc": 0.5, "balanced_accuracy": 0.5}
    assert {name: values[name] for name in chances} == chances


def test_labels_of_one_kind_are_left_out_and_counted():
    """A label without a positive, without a negative or unknown leaves AUROC to the others."""
    probabilities, labels = draw_case(0, 60, 5, unknown=0.2)
    labels[:, 0], labels[:, 1] = 0, 1
    labels[:10, :2], labels[:, 2] = -1, -1
    weights = item_weights("t", "s", 60)
    some = evaluate(probabilities, labels, weights, kind="multilabel")
    rest = evaluate(probabilities[:, 3:], labels[:, 3:], weights, kind="multilabel")
    assert some.classes_scored == rest.classes_scored == 2
    for name in ("auroc", "balanced_accuracy"):
        assert some.values[name] == rest.values[name] is not None
    none = evaluate(probabilities[:, :3], labels[:, :3], weights, kind="multilabel")
    assert none.classes_scored == 0
    assert none.values["auroc"] is none.intervals["auroc"] is None
    assert np.isnan(none.replicates["auroc"]).all()
    assert none.values["accuracy"] is not None
    unknown = evaluate(probabilities[:, [2]], labels[:, [2]], weights, kind="multilabel")
    assert {*unknown.values.values(), *unknown.intervals.values()} == {None}


def test_evaluation_is_complete():
    """Every registered metric has a value, its replicates, and an interval made of them."""
    predictions = draw_case(0, 100, 4, unknown=0.2)
    weights = item_weights("task", "split", 100)
    evaluation = evaluate(*predictions, weights, kind="multilabel")
    assert (evaluation.n, evaluation.classes_scored) == (100, 4)
    for entries in (evaluation.values, evaluation.intervals, evaluation.replicates):
        assert list(entries) == list(MULTILABEL) == [m.name for m in MULTILABEL.values()]
    for name in MULTILABEL:
        assert evaluation.values[name] == compute(name, *predictions)
        assert evaluation.intervals[name] == interval(evaluation.replicates[name])


def test_kinds_share_their_metrics():
    """Tables line up: the same keys, headings and directions in both kinds of classification."""
    assert METRICS["multiclass"] is MULTICLASS
    assert METRICS["multilabel"] is MULTILABEL
    described = [
        [(m.name, m.title, m.higher_is_better) for m in metrics.values()]
        for metrics in (MULTICLASS, MULTILABEL)
    ]
    assert described[0] == described[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.full(4, 0.5)}, r"probabilities must be \[N, L\].*\(4,\)"),
        ({"probabilities": np.empty((4, 0))}, "L at least 1"),
        ({"probabilities": np.empty((0, 2))}, "N and L at least 1"),
        ({"probabilities": np.full((4, 2), np.nan)}, "not finite in 4 of 4 rows"),
        (
            {"probabilities": np.array([[0.5, 0.5]] * 3 + [[0.5, 1.5]])},
            "not between 0 and 1 in 1 of 4 rows, first in row 3",
        ),
        ({"probabilities": np.full((4, 2), -0.1)}, "not between 0 and 1 in 4 of 4"),
        ({"labels": np.zeros(4, dtype=int)}, r"labels must have shape \(4, 2\), got \(4,\)"),
        ({"labels": np.zeros((4, 2))}, "labels must be integers, got float64"),
        ({"labels": np.full((4, 2), 2)}, r"labels must be 1, 0 or -1 \(unknown\), got 2 to 2"),
        ({"labels": np.full((4, 2), -2)}, "got -2 to -2"),
        ({"weights": np.ones(4)}, r"weights must have shape \(B, 4\), got \(4,\)"),
        ({"weights": np.full((1, 4), -1)}, "weights must be finite and not negative"),
        ({"kind": "multilable"}, "kind must be one of .*, multilabel, .* got 'multilable'"),
    ],
)
def test_invalid_input_is_named(change, message):
    """What cannot be scored is refused with its reason."""
    valid = {
        "probabilities": np.full((4, 2), 0.5),
        "labels": np.array([[0, 1], [1, -1], [1, 1], [0, 0]]),
        "weights": np.ones((2, 4)),
        "kind": "multilabel",
    }
    evaluate(**valid)
    with pytest.raises(ValueError, match=message):
        evaluate(**valid | change)
