"""Few-shot draws, folds and held-out items."""

from __future__ import annotations

import numpy as np
import pytest

from medtransfer.core.seeds import seed_of
from medtransfer.data.draws import draw_items, feasible, hold_out, stratified_folds

COUNTS = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [40, 12, 3]))
IDS = [f"item-{row}" for row in range(len(COUNTS))]
GOLDEN_DRAWS = [[0, 6, 1, 7, 8, 2], [6, 9, 4, 1, 8, 2]]
GOLDEN_SEED = 5_481_088_838_130_554_655


def draw(shots: int | None, *, number: int = 0, task: str = "t") -> list[int]:
    return draw_items(COUNTS, IDS, shots=shots, task=task, draw=number).tolist()


def test_draws_are_nested() -> None:
    """The shots of a smaller budget are among those of a larger one, in the same order."""
    for number in range(5):
        one, five, ten = (draw(shots, number=number) for shots in (1, 5, 10))
        assert set(one) < set(five) < set(ten)
        for label in range(3):
            of_class = [[i for i in items if COUNTS[i] == label] for items in (one, five, ten)]
            assert of_class[0] == of_class[1][:1] and of_class[1] == of_class[2][:5]


@pytest.mark.parametrize("shots", [1, 3, 5, 10, 100])
def test_draws_are_stratified(shots: int) -> None:
    """Each class gives as many items as asked for, or all that it has."""
    items = draw(shots)
    assert len(set(items)) == len(items)
    expected = [min(shots, count) for count in (40, 12, 3)]
    assert np.bincount(COUNTS[items]).tolist() == expected


def test_all_items_are_one_draw() -> None:
    """At the full budget every item is taken, in the order of the split."""
    assert draw(None) == list(range(len(COUNTS)))


def test_draws_differ() -> None:
    """Draws, tasks and seeds with other names are other random choices."""
    choices = {tuple(draw(5, number=number)) for number in range(10)}
    choices |= {tuple(draw(5, task=task)) for task in ("a", "b")}
    assert len(choices) == 12
    assert seed_of("a", 1) != seed_of("a", 2) != seed_of("b", 2)
    assert 0 <= seed_of("a", 1) < 2**63


def test_draws_follow_the_items_not_the_rows() -> None:
    """A permuted copy of a split gives the same items of the same classes."""
    order = np.random.default_rng(2).permutation(len(COUNTS))
    ids = [IDS[row] for row in order]
    items = draw_items(COUNTS[order], ids, shots=5, task="t", draw=0)
    assert [ids[item] for item in items] == [IDS[item] for item in draw(5)]
    # With ids by row, as in a file, other images are drawn, but as many of each class.
    rows = [str(row) for row in range(len(COUNTS))]
    items = draw_items(COUNTS[order], rows, shots=5, task="t", draw=0)
    assert np.bincount(COUNTS[order][items]).tolist() == [5, 5, 3]


def test_draws_are_pinned() -> None:
    """Golden values: no version of any library moves a draw."""
    labels = np.arange(12) % 3
    ids = [str(row) for row in range(12)]
    found = [
        draw_items(labels, ids, shots=2, task="small", draw=number).tolist() for number in (0, 1)
    ]
    assert found == GOLDEN_DRAWS
    assert seed_of("small", "10-shot", 0) == GOLDEN_SEED


def test_feasible_budgets_are_real_subsets() -> None:
    """A budget must use less than the share; the full budget always fits."""
    assert feasible(items=100, groups=2, shots=39, share=0.8)
    assert not feasible(items=100, groups=2, shots=40, share=0.8)
    assert feasible(items=10, groups=2, shots=None, share=0.8)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_even(folds: int) -> None:
    """Folds differ by one item at most, as a whole and within each class."""
    rng = np.random.default_rng(folds)
    for _ in range(30):
        labels = rng.integers(0, rng.integers(1, 6), rng.integers(folds, 60))
        assigned = stratified_folds(labels, folds)
        for items in (assigned, *(assigned[labels == label] for label in np.unique(labels))):
            sizes = np.bincount(items, minlength=folds)
            assert len(sizes) == folds
            assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_hold_out_leaves_items_to_train_on(share: float) -> None:
    """Of each class something stays to train on, and something is held where there are two."""
    for count in range(1, 12):
        labels = np.repeat([0, 1], [count, 7])
        held = hold_out(labels, share)
        for label, items in ((0, count), (1, 7)):
            kept = int((~held[labels == label]).sum())
            assert 1 <= kept <= items - (items > 1)
        # The last ones of a class are held, so that the kept are a smaller draw.
        assert np.flatnonzero(held[:count]).tolist() == list(
            range(int((~held[:count]).sum()), count)
        )
