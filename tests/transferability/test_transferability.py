"""Transferability scores: against independent implementations, closed forms and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, stats
from torchvision.transforms.v2 import functional as transforms

from medtransfer.core.errors import InputError
from medtransfer.specs.protocol import ScoreSettings, load_protocol
from medtransfer.transferability import registry
from medtransfer.transferability.consistency import ccfv, feature_variety, wasserstein
from medtransfer.transferability.material import jitter
from medtransfer.transferability.registry import (
    INPUTS,
    Score,
    Undefined,
    choose_scores,
    register_score,
    registered_scores,
)
from medtransfer.transferability.robustness import derangements, robustness
from medtransfer.transferability.scoring import compute

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCORES = registered_scores()
SETTINGS = load_protocol("v1").scores
LABELLED = [name for name, score in SCORES.items() if "labels" in score.needs]


def draw(
    seed: int, *, items: int = 60, width: int = 8, classes: int = 3
) -> tuple[Floats, Integers]:
    """Features that say something of their labels, on a sphere as the encoders' are."""
    generator = np.random.default_rng(seed)
    labels = np.arange(items) % classes
    features = (
        generator.normal(size=(items, width)) + generator.normal(size=(classes, width))[labels]
    )
    return features * np.sqrt(width) / np.linalg.norm(features, axis=1, keepdims=True), labels


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


# Second implementations, written from the papers, class by class and by the textbook's algebra.


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
    **dict.fromkeys([("one class", name) for name in LABELLED], "only one class is there"),
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
    with pytest.raises(Undefined, match="for no label: only one class"):
        compute(score, {"features": features, "labels": columns[:, 2:]}, {})


# Without labels.


def reference_robustness(
    first: Floats, second: Floats, distance: str, margin: float, count: int, seed: int
) -> float:
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "cosine": lambda u, v: float(1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v)),
        "mse": lambda u, v: float(np.mean((u - v) ** 2)),
        "pearson": lambda u, v: float(1 - stats.pearsonr(u, v).statistic),
    }
    own = measures[distance]
    losses = [
        max(0.0, own(first[i], second[i]) - own(first[i], second[other[i]]) + margin)
        for other in derangements(len(first), count, seed=seed)
        for i in range(len(first))
    ]
    return -float(np.mean(losses))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("distance", ["cosine", "mse", "pearson"])
def test_robustness_agrees_with_a_second_implementation(distance: Any, margin: float) -> None:
    """Within rounding, at all distances; n below and above the number of derangements."""
    generator = np.random.default_rng(1)
    for items in (3, 20):
        first = generator.normal(size=(items, 6))
        second = first + 0.3 * generator.normal(size=(items, 6))
        found = robustness((first, second), distance=distance, margin=margin)
        second_way = reference_robustness(first, second, distance, margin, 8, 0)
        assert found == pytest.approx(second_way, abs=1e-12)


def test_robustness_of_features_that_do_not_react() -> None:
    """Closed forms: equal features lose the margin; unmoved orthogonal ones lose nothing."""
    constant = np.ones((5, 4))
    assert robustness((constant, constant), margin=0.5) == pytest.approx(-0.5)
    apart = np.eye(5)
    assert robustness((apart, apart), margin=0.75) == 0
    with pytest.raises(Undefined, match="the pearson distance of an image's features"):
        robustness((constant, constant), distance="pearson")
    with pytest.raises(Undefined, match="one image has no other"):
        robustness((apart[:1], apart[:1]))
    with pytest.raises(Undefined, match="cosine"):
        robustness((0 * apart, apart))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_robustness_by_cosine_does_not_depend_on_scale(seed: int, scale: float) -> None:
    """As theory has it: a cosine knows directions only."""
    generator = np.random.default_rng(seed)
    views = generator.normal(size=(2, 12, 5))
    moved = robustness((scale * views[0], scale * views[1]))
    assert robustness((views[0], views[1])) == pytest.approx(moved, rel=1e-9)


@given(items=st.integers(2, 40), count=st.integers(1, 50), seed=st.integers(0, 1000))
def test_derangements_leave_nothing_at_its_place(items: int, count: int, seed: int) -> None:
    """Each is a permutation without a fixed point, and no two are the same."""
    found = derangements(items, count, seed=seed)
    assert len(found) == min(count, items - 1)
    for other in found:
        assert sorted(other) == list(range(items))
        assert (other != np.arange(items)).all()
    assert len({tuple(other) for other in found}) == len(found)


@pytest.mark.parametrize("sizes", [(30, 40), (3, 5), (2, 30)])
def test_wasserstein_distance_agrees_with_matrix_roots(sizes: tuple[int, int]) -> None:
    """The nuclear norm gives what the roots of the covariances give, also where these are flat."""
    generator = np.random.default_rng(2)
    first = generator.normal(size=(sizes[0], 6))
    second = 2 * generator.normal(size=(sizes[1], 6)) + 1
    s1, s2 = np.cov(first.T), np.cov(second.T)
    root = linalg.sqrtm(s1 + 1e-12 * np.eye(6)).real
    cross = linalg.sqrtm(root @ s2 @ root + 1e-14 * np.eye(6)).real
    shift = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    squared = shift + np.trace(s1) + np.trace(s2) - 2 * np.trace(cross)
    assert wasserstein(first, second) == pytest.approx(math.sqrt(squared), rel=1e-4)
    assert wasserstein(first, first) == pytest.approx(0, abs=1e-6)


def test_variety_of_vectors_at_known_angles() -> None:
    """Closed form: orthogonal unit vectors are the root of 2 apart, at any length."""
    assert feature_variety(np.array([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]])) == pytest.approx(2**0.5)


def test_class_consistency_rewards_structures_that_look_alike() -> None:
    """Where a structure's pixels shift from image to image, the score falls; null where none."""
    generator = np.random.default_rng(3)
    background = [generator.normal(size=(20, 4)) + 5 * generator.normal(size=4) for _ in range(5)]

    def level(shift: float) -> dict[int, list[Floats]]:
        organ = [generator.normal(size=(20, 4)) + shift * k for k in range(5)]
        return {0: background, 1: organ}

    assert ccfv([level(0)] * 4) > ccfv([level(1)] * 4) > ccfv([level(5)] * 4)
    one = level(1)
    larger = {number: [10 * vectors for vectors in images] for number, images in one.items()}
    assert ccfv([larger]) == pytest.approx(ccfv([one]))  # encoders differ in scale
    nothing = {0: background, 1: [np.empty((0, 4))] * 5}
    with pytest.raises(Undefined, match="no structure is in two images"):
        ccfv([nothing] * 4)
    empty = np.empty((0, 4))
    with pytest.raises(Undefined, match="there are no pixels"):
        ccfv([{0: [empty] * 2, 1: [empty] * 2}])
    some = {0: [empty, empty, empty], 1: [background[0], empty, background[1]]}
    assert math.isfinite(ccfv([some]))


# The registry.


def test_a_score_of_ones_own_is_one_function() -> None:
    """Registered by a decorator; its inputs are its parameters, its fixed values its defaults."""
    before = dict(registry._REGISTRY)
    try:

        @register_score(title="Mine", paper="me")
        def mine(features: Floats, labels: Integers, *, power: float = 2) -> float:
            return float((np.abs(features) ** power).mean())

        score = registered_scores()["mine"]
        assert score.needs == ("features", "labels") and score.options(SETTINGS) == {"power": 2}
        with pytest.raises(InputError, match="'mine' is registered twice"):
            register_score(title="", paper="", name="mine")(mine)
        with pytest.raises(InputError, match="unknown parameter 'feature'; did you mean 'feat"):
            register_score(title="", paper="", name="other")(lambda feature: 0.0)
        with pytest.raises(InputError, match="views are of some images only"):
            register_score(title="", paper="", name="other")(lambda views, labels: 0.0)
        with pytest.raises(InputError, match="make a name"):
            register_score(title="", paper="", name="my score")(mine)
        with pytest.raises(InputError, match="'least' needs a default"):
            exec("def bare(features, *, least): return 0.0", own := {})
            register_score(title="", paper="")(own["bare"])
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)


def test_scores_by_name_and_from_a_file(tmp_path: Any) -> None:
    """Names, a file that registers one, and what is said where there is none."""
    assert [score.name for score in choose_scores(["gbc", "logme"])] == ["gbc", "logme"]
    assert [score.name for score in choose_scores([])] == list(SCORES)
    with pytest.raises(InputError, match="unknown score 'logm'; did you mean 'logme'"):
        choose_scores(["logm"])
    file = tmp_path / "size.py"
    file.write_text(
        "from medtransfer.transferability.registry import register_score\n"
        "@register_score(title='Number of items', paper='none')\n"
        "def size(features, labels):\n    return float(len(labels))\n"
    )
    before = dict(registry._REGISTRY)
    try:
        assert [score.name for score in choose_scores([str(file)])] == ["size"]
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)
    file.write_text("x = 1\n")
    with pytest.raises(InputError, match="registers no score"):
        choose_scores([str(file)])
    with pytest.raises(InputError, match="no such file"):
        choose_scores([str(tmp_path / "nothing.py")])


@pytest.mark.parametrize("name", SCORES)
def test_shipped_scores_say_what_they_are(name: str) -> None:
    """A title, a paper, kinds and known inputs; the fingerprint follows the fixed values."""
    score = SCORES[name]
    assert score.title and score.paper and score.kinds and score.function.__doc__
    assert set(score.needs) <= set(INPUTS)

    def fingerprint(settings: ScoreSettings = SETTINGS, size: int = 224, head: str = "") -> str:
        return score.fingerprint(settings, max_size=size, head=head)

    own = fingerprint()
    assert own == fingerprint() != fingerprint(size=64)
    other = SETTINGS.model_copy(update={"margin": 0.25})
    assert (own != fingerprint(other)) == (name in ("robustness", "ccfv"))
    assert (own != fingerprint(head="of another classifier")) == (name == "leep")


# What scores are computed from.


@pytest.mark.parametrize("colour", [True, False])
def test_jitter_is_torchvisions(colour: bool) -> None:
    """Each image by its own amounts, like torchvision's functions in turn; grey stays grey."""
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand((4, 3, 8, 8), generator=generator) * 255).round()
    pixels = pixels if colour else pixels[:, :1].expand(-1, 3, -1, -1)
    draws = torch.rand((4, 4), generator=generator)
    found = jitter(pixels, draws, SETTINGS)
    for image, own, result in zip(pixels / 255, draws.tolist(), found, strict=True):
        image = transforms.adjust_brightness(image, 1 + 0.1 * (2 * own[0] - 1))
        image = transforms.adjust_contrast(image, 1 + 0.05 * (2 * own[1] - 1))
        image = transforms.adjust_saturation(image, 1 + 0.1 * (2 * own[2] - 1))
        image = transforms.adjust_hue(image, 0.05 * (2 * own[3] - 1))
        torch.testing.assert_close(result, image * 255, atol=0.05, rtol=0)


@pytest.mark.parametrize("score", ["nleep", "neighbours", "parc"])
def test_of_many_items_some_are_taken_evenly(score: str) -> None:
    """With a bound below the number of items, the score is of some of them, near that of all."""
    features, labels = draw(11, items=900)
    function, options = SCORES[score].function, {"most": 600}
    some = function(features, labels, **options)
    assert some != function(features, labels) == function(features, labels, most=900)
    assert some == pytest.approx(function(features, labels), abs=0.1)
