"""Transferability scores: against independent implementations, closed forms and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medtransfer.transferability.registry import Score, Undefined
from medtransfer.transferability.scoring import compute
from tests.helpers.transferability import SCORES, SETTINGS, Floats, Integers, draw

LABELLED = [name for name, score in SCORES.items() if "labels" in score.needs]


def inputs_of(score: Score, features: Floats, labels: Integers) -> dict[str, Any]:
    """What a score needs, made from features and labels; probabilities by a softmax."""
    made = {
        "features": features,
        "labels": labels,
        "source_probabilities": np.exp(features) / np.exp(features).sum(axis=1, keepdims=True),
    }
    return {name: made[name] for name in score.needs}


def value_of(name: str, features: Floats, labels: Integers) -> float:
    score = SCORES[name]
    return compute(score, inputs_of(score, features, labels), score.options(SETTINGS))


def reference_logme(features: Floats, labels: Integers) -> float:
    """Precisions by the fixed point with an SVD a class; the evidence as a Gaussian's density."""
    found = []
    for label in np.unique(labels):
        target = (labels == label).astype(float)
        left, singular, _ = np.linalg.svd(features, full_matrices=False)
        squares, turned = singular**2, (left.T @ target) ** 2
        alpha = beta = 1.0
        for _ in range(5000):
            ratio = alpha / beta
            gamma = (squares / (squares + ratio)).sum()
            weight = (squares * turned / (ratio + squares) ** 2).sum()
            error = (turned / (1 + squares / ratio) ** 2).sum() + (target**2).sum() - turned.sum()
            alpha, beta = gamma / (weight + 1e-5), (len(target) - gamma) / (error + 1e-5)
            if abs(alpha / beta - ratio) <= 1e-12 * ratio:
                break
        covariance = np.eye(len(target)) / beta + features @ features.T / alpha
        density = stats.multivariate_normal(np.zeros(len(target)), covariance, allow_singular=True)
        found.append(density.logpdf(target) / len(target))
    return float(np.mean(found))


def reference_hscore(features: Floats, labels: Integers) -> float:
    """The two covariances as matrices; of few items scikit-learn's estimate, and its shrinkage."""
    means = np.stack([features[labels == label].mean(axis=0) for label in labels])
    between = np.cov(means.T, bias=True)
    if len(features) >= features.shape[1]:
        inverse = np.linalg.pinv(np.cov(features.T, bias=True), rcond=1e-12, hermitian=True)
    else:
        from sklearn.covariance import LedoitWolf

        estimate = LedoitWolf().fit(features)
        inverse = np.linalg.inv(estimate.covariance_) * (1 - estimate.shrinkage_)
    return float(np.trace(inverse @ between))


def reference_leep(theta: Floats, labels: Integers) -> float:
    """Sums written out."""
    total = 0.0
    for item, label in enumerate(labels):
        likelihood = 0.0
        for z in range(theta.shape[1]):
            if theta[:, z].sum() > 0:
                likelihood += theta[item, z] * theta[labels == label, z].sum() / theta[:, z].sum()
        total += math.log(likelihood)
    return total / len(labels)


def reference_nleep(features: Floats, labels: Integers) -> float:
    """scikit-learn's principal components and mixture."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    reduced = PCA(0.8, svd_solver="full").fit_transform(features)
    mixture = GaussianMixture(5 * len(np.unique(labels)), random_state=0).fit(reduced)
    return reference_leep(mixture.predict_proba(reduced), labels)


def reference_transrate(features: Floats, labels: Integers) -> float:
    """Coding rates of D x D matrices."""

    def rate(vectors: Floats) -> float:
        identity = np.eye(vectors.shape[1])
        return float(np.linalg.slogdet(identity + vectors.T @ vectors / len(vectors) / 1e-4)[1] / 2)

    centred = features - features.mean(axis=0)
    return rate(centred) - sum(
        (labels == label).mean() * rate(centred[labels == label]) for label in np.unique(labels)
    )


def reference_gbc(features: Floats, labels: Integers) -> float:
    """Whole covariance matrices and determinants, over scikit-learn's principal components."""
    from sklearn.decomposition import PCA

    reduced = PCA(min(64, *features.shape), svd_solver="full").fit_transform(features)
    reduced = reduced[:, np.ptp(reduced, axis=0) > 1e-9]
    total = 0.0
    for one, other in combinations(np.unique(labels), 2):
        first, second = reduced[labels == one], reduced[labels == other]
        s1 = np.diag(np.maximum(first.var(axis=0), 1e-4))
        s2 = np.diag(np.maximum(second.var(axis=0), 1e-4))
        mean, shift = (s1 + s2) / 2, first.mean(axis=0) - second.mean(axis=0)
        logs = [np.linalg.slogdet(matrix)[1] for matrix in (mean, s1, s2)]
        distance = shift @ np.linalg.solve(mean, shift) / 8
        distance += (logs[0] - (logs[1] + logs[2]) / 2) / 2
        total -= 2 * math.exp(-distance)
    return total


def reference_parc(features: Floats, labels: Integers) -> float:
    """Correlations by numpy, of features and of one-hot labels."""
    onehot = np.eye(int(labels.max()) + 1)[labels][:, np.unique(labels)]
    lower = np.tril_indices(len(labels), -1)
    if onehot.shape[1] < 3:  # whose correlations are all 1 or -1
        apart = np.abs(np.corrcoef(onehot)[lower] - 1).round(9)
    else:
        apart = (1 - np.corrcoef(onehot)[lower]).round(9)
    return float(stats.spearmanr((1 - np.corrcoef(features)[lower]).round(12), apart).statistic)


def reference_neighbours(features: Floats, labels: Integers) -> float:
    """Angles, pair by pair."""
    right: dict[int, list[bool]] = {}
    for item, own in enumerate(features):
        cosines = [
            -np.inf if other == item else own @ v / np.linalg.norm(own) / np.linalg.norm(v)
            for other, v in enumerate(features)
        ]
        best = int(np.argmax(np.float32(cosines)))
        right.setdefault(int(labels[item]), []).append(bool(labels[best] == labels[item]))
    return float(np.mean([np.mean(hits) for hits in right.values()]))


REFERENCES: dict[str, Callable[[Floats, Integers], float]] = {
    "logme": reference_logme,
    "hscore": reference_hscore,
    "leep": reference_leep,
    "nleep": reference_nleep,
    "transrate": reference_transrate,
    "gbc": reference_gbc,
    "parc": reference_parc,
    "neighbours": reference_neighbours,
}


def case(name: str) -> tuple[Floats, Integers]:
    """Arrays of a kind that has broken implementations."""
    features, labels = draw(3)
    match name:
        case "ordinary":
            return features, labels
        case "two classes":
            return draw(4, classes=2)
        case "N < D":
            return draw(5, items=30, width=90)
        case "a class missing":
            return features, np.array([0, 2, 5])[labels]
        case "constant features":
            return np.ones_like(features), labels
        case "one constant dimension":
            return np.concatenate([features, np.full((len(features), 2), 0.5)], axis=1), labels
        case "duplicated items":
            return np.repeat(features[:20], 3, axis=0), np.repeat(labels[:20], 3)
        case "one image a class":
            return features[:3], labels[:3]
        case "one class":
            return features, np.zeros_like(labels)
    raise AssertionError(name)


CASES = ["ordinary", "two classes", "N < D", "a class missing", "one constant dimension"]
CASES += ["duplicated items", "constant features", "one image a class", "one class"]
UNDEFINED = {
    **dict.fromkeys([("one class", name) for name in LABELLED], "there is only one class"),
    ("constant features", "hscore"): "all features are the same",
    ("constant features", "nleep"): "all features are the same",
    ("constant features", "transrate"): "all features are the same",
    ("constant features", "gbc"): "all features are the same",
    ("constant features", "parc"): "an image's features are all the same number",
    ("one image a class", "nleep"): "3 images for 15 components",
    ("one image a class", "gbc"): "a class has fewer than 2 images",
    ("one image a class", "parc"): "all pairs are equally far apart",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("score", LABELLED)
def test_scores_agree_with_a_second_implementation(score: str, name: str) -> None:
    """Within 1e-6 on ordinary and degenerate arrays, or undefined with the reason."""
    features, labels = case(name)
    if (name, score) in UNDEFINED:
        with pytest.raises(Undefined, match=UNDEFINED[name, score]):
            value_of(score, features, labels)
        return
    given = inputs_of(SCORES[score], features, labels)
    second = REFERENCES[score](next(iter(given.values())), labels)
    assert value_of(score, features, labels) == pytest.approx(second, rel=1e-6, abs=1e-6)


def test_every_score_is_compared_with_a_second_implementation() -> None:
    """A new shipped score comes with one."""
    assert set(REFERENCES) == set(LABELLED)
    assert set(SCORES) - set(LABELLED) == {"robustness", "ccfv"}


@pytest.mark.parametrize("score", LABELLED)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), names=st.permutations([0, 1, 2]))
def test_the_names_of_the_classes_do_not_matter(score: str, seed: int, names: list[int]) -> None:
    """A permutation of the classes changes no score, but for the order of sums."""
    features, labels = draw(seed)
    renamed = np.array(names)[labels]
    same = value_of(score, features, renamed)
    assert value_of(score, features, labels) == pytest.approx(same, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("score", ["logme", "hscore", "transrate", "gbc", "neighbours"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), items=st.integers(20, 50), width=st.integers(2, 60))
def test_rotations_do_not_matter(score: str, seed: int, items: int, width: int) -> None:
    """Scores of geometry alone are the same in any orthonormal axes, with N above and below D."""
    features, labels = draw(seed, items=items, width=width)
    axes = stats.ortho_group.rvs(width, random_state=seed) if width > 1 else np.eye(1)
    turned = value_of(score, features @ axes, labels)
    assert value_of(score, features, labels) == pytest.approx(turned, rel=1e-6, abs=1e-6)


def test_hscore_is_at_most_classes_less_one() -> None:
    """Whatever the labels, with items below and above dimensions."""
    for seed, items, width in ((0, 30, 90), (1, 90, 30), (2, 60, 59)):
        features, labels = draw(seed, items=items, width=width)
        assert 0 < value_of("hscore", features, labels) <= 2 + 1e-9


@pytest.mark.parametrize("score", ["hscore", "parc", "neighbours"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-2, 1e2))
def test_the_scale_of_the_features_does_not_matter(score: str, seed: int, scale: float) -> None:
    """Scores of directions and ranks; LogME and TransRate do depend on it, as their papers say."""
    features, labels = draw(seed)
    scaled = value_of(score, scale * features, labels)
    assert value_of(score, features, labels) == pytest.approx(scaled, rel=1e-6)


@pytest.mark.parametrize("score", LABELLED)
def test_classes_that_can_be_told_apart_score_higher(score: str) -> None:
    """The direction of all scores: better features, a higher score."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    centres = 3 * np.eye(3, 12)[labels]
    noise = generator.normal(size=(120, 12))
    assert value_of(score, noise + centres, labels) > value_of(score, noise, labels) + 1e-3


def test_labels_that_are_several_questions() -> None:
    """Of several labels the mean over those that are defined, unknown ones left out."""
    features, labels = draw(9)
    columns = np.stack([labels == 0, labels == 1, np.zeros(60, int)], axis=1).astype(np.int64)
    columns[:10, 0] = -1
    score = SCORES["logme"]
    found = compute(score, {"features": features, "labels": columns}, score.options(SETTINGS))
    first = value_of("logme", features[10:], columns[10:, 0])
    assert found == pytest.approx((first + value_of("logme", features, columns[:, 1])) / 2)
    with pytest.raises(Undefined, match="for every label: there is only one class"):
        compute(score, {"features": features, "labels": columns[:, 2:]}, {})
