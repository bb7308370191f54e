"""Scores without labels: robustness and consistency against second implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from medtransfer.transferability.consistency import ccfv, feature_variety, wasserstein
from medtransfer.transferability.registry import Undefined
from medtransfer.transferability.robustness import derangements, robustness
from tests.helpers.transferability import Floats


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
    with pytest.raises(Undefined, match="a single image has no other"):
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
