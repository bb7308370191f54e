"""Draws of multi-label and segmentation tasks, and that all draws are the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medtransfer.data.draws import (
    draw_items,
    feasible,
    groups,
    hold_out,
    strata,
    stratified_folds,
)
from medtransfer.specs.task import TaskCard, find_task, load_suites, load_tasks
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "draws.json"
BUDGETS = (1, 5, 10)


def random_labels(seed: int, *, items: int = 300, unknown: float = 0.0) -> NDArray[np.int64]:
    """Labels of unequal prevalence, (items, 4)."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((items, 4)) < [0.5, 0.2, 0.08, 0.03]).astype(np.int64)
    labels[rng.random(labels.shape) < unknown] = -1
    labels[:4] = np.eye(4, dtype=np.int64)
    return labels


def draw(labels: NDArray[np.int64], shots: int, number: int = 0) -> NDArray[np.int64]:
    """Draw from items called 0, 1, 2, ..."""
    ids = [str(item) for item in range(len(labels))]
    return draw_items(labels, ids, shots=shots, task="some", draw=number)


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_every_label_gets_its_positives(seed: int, shots: int, unknown: float) -> None:
    """A draw has k positives of each label, or all that there are, and k items without any."""
    labels = random_labels(seed, unknown=unknown)
    chosen = draw(labels, shots)
    assert len(set(chosen.tolist())) == len(chosen)
    positives = (labels[chosen] == 1).sum(axis=0)
    there = (labels == 1).sum(axis=0)
    assert (positives >= np.minimum(shots, there)).all()
    nothing = (labels == 0).all(axis=1)
    assert nothing[chosen].sum() == min(shots, nothing.sum())
    # Nothing is drawn that is no positive and no item without any label.
    assert ((labels[chosen] == 1).any(axis=1) | nothing[chosen]).all()
    assert len(chosen) <= shots * groups("multilabel", 4)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_draws_of_labels_are_nested(seed: int) -> None:
    """The items of fewer shots are among those of more shots of the same draw."""
    labels = random_labels(seed)
    drawn = [set(draw(labels, shots).tolist()) for shots in range(1, 11)]
    assert all(fewer <= more for fewer, more in itertools.pairwise(drawn))


def test_draws_of_labels_do_not_depend_on_the_order_of_items() -> None:
    """The draw is made from ids, so a shuffled file gives the same items."""
    labels = random_labels(1)
    ids = [f"image {item}" for item in range(len(labels))]
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = [ids[item] for item in order]
    first = draw_items(labels, ids, shots=5, task="t", draw=3)
    second = draw_items(labels[order], shuffled, shots=5, task="t", draw=3)
    assert [ids[item] for item in first] == [shuffled[item] for item in second]
    assert set(first) != set(draw_items(labels, ids, shots=5, task="t", draw=4))


def test_images_for_segmentation_come_from_distinct_patients() -> None:
    """No patient's second image is drawn before everybody's first one."""
    patients = [f"p{item // 5}" for item in range(50)]
    labels = np.empty((50, 0), np.int64)
    ids = [str(item) for item in range(50)]
    for shots in (1, 5, 10):
        chosen = draw_items(labels, ids, shots=shots, task="t", draw=0, patients=patients)
        assert len({patients[item] for item in chosen}) == shots == len(chosen)
    many = draw_items(labels, ids, shots=14, task="t", draw=0, patients=patients)
    assert len(set(many.tolist())) == 14
    assert len({patients[item] for item in many}) == 10
    assert draw_items(labels, ids, shots=5, task="t", draw=0).tolist() != list(range(5))


def test_strata_are_the_rarest_labels() -> None:
    """An item is balanced over by its rarest label; without any it is in the last stratum."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0], [0, -1, 0]])
    assert strata(labels).tolist() == [1, 0, 2, 1, 3, 3]
    plain = np.array([2, 0, 1])
    assert strata(plain) is plain


@given(st.integers(0, 10_000), st.sampled_from([5, 10]))
@settings(max_examples=25, deadline=None)
def test_folds_and_hold_out_spread_the_rare_labels(seed: int, shots: int) -> None:
    """Every label that was drawn five times or more is in the training part of every fold."""
    labels = random_labels(seed)
    drawn = labels[draw(labels, shots)]
    folds = stratified_folds(strata(drawn), 5)
    enough = (drawn == 1).sum(axis=0) >= 5
    for fold in range(5):
        assert ((drawn[folds != fold] == 1).sum(axis=0) > 0)[enough].all()
    held = hold_out(strata(drawn), 0.2)
    assert 0 < held.sum() < len(drawn)
    assert ((drawn[~held] == 1).sum(axis=0) > 0)[enough].all()


def test_feasible_counts_the_groups_of_the_kind() -> None:
    """Labels need one group more than there are labels; segmentation counts images."""
    assert [groups(kind, 3) for kind in ("multiclass", "multilabel", "segmentation")] == [3, 4, 1]
    assert feasible(items=100, groups=1, shots=79, share=0.8)
    assert not feasible(items=100, groups=4, shots=20, share=0.8)


def stand_in(card: TaskCard) -> NDArray[np.int64]:
    """Labels made by arithmetic alone, for a training split of 900 items called 0 to 899."""
    items, classes = np.arange(900), len(card.classes)
    if card.kind == "segmentation":
        return np.empty((900, 0), np.int64)
    if card.kind == "multiclass":
        return items * 7 % classes
    return np.stack(
        [(items % (3 + 2 * label) == 0).astype(np.int64) for label in range(classes)], 1
    )


def digest_draws(card: TaskCard) -> dict[str, str]:
    """Hash the ids, in order, of every budget of two draws."""
    labels, ids = stand_in(card), [str(item) for item in range(900)]
    digests = {}
    for number in range(2):
        for shots in BUDGETS:
            chosen = draw_items(labels, ids, shots=shots, task=card.name, draw=number)
            text = " ".join(ids[item] for item in chosen)
            digests[f"{shots}-shot #{number}"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return digests


def shipped() -> dict[str, TaskCard]:
    """Every task of every suite."""
    cards = load_tasks()
    names = sorted({name for suite in load_suites().values() for name in suite.tasks})
    found = {name: find_task(name, cards) for name in names}
    return {name: card for name, card in found.items() if card is not None}


@pytest.mark.parametrize("name", sorted(shipped()))
def test_draws_are_those_of_the_golden_file(name: str) -> None:
    """The draws follow from task, draw and item ids alone: on any machine, for ever.

    The labels stand in for the official ones, and their rule is above. A new task adds its line
    with ``python -m tests.data.test_draws``; a line that would change is a broken promise.
    """
    golden = json.loads(GOLDEN.read_text())
    assert digest_draws(shipped()[name]) == golden[name]


if __name__ == "__main__":
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    added = {name: digest_draws(card) for name, card in shipped().items() if name not in known}
    GOLDEN.write_text(json.dumps(dict(sorted({**known, **added}.items())), indent=1) + "\n")
