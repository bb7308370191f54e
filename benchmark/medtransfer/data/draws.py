"""Few-shot draws: the training items of a budget, the same on every machine.

Each class is ordered by the SHA-256 of (task, draw, item id) and its first k items are taken.
So the draws are nested (the 5 shots of a draw are among its 10), and they depend on no random
generator of any library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_items(
    labels: NDArray[np.int64],
    ids: Sequence[str],
    *,
    shots: int | None,
    task: str,
    draw: int,
    patients: Sequence[str] | None = None,
) -> NDArray[np.int64]:
    """Choose the training items of one draw.

    Multiclass: the first k of each class. Multilabel: k positives of each label where there are
    as many, rarest first, and k items without any label; an item counts for all of its labels.
    Segmentation: k images, of distinct patients as long as there are any.

    Args:
        labels: Labels of the training split, (N,), (N, L) or (N, 0), as in `Split`.
        ids: Their N item ids.
        shots: k; ``None`` takes all items.
        task: The task's name.
        draw: The draw's number.
        patients: Patient of each item, where known.

    Returns:
        Indices into the split, class by class, each class in the order of its hashes.
    """
    if shots is None:
        return np.arange(len(labels))
    keys = np.array(
        [hashlib.sha256(f"{task}/{draw}/{item}".encode()).hexdigest() for item in ids], dtype="S64"
    )
    order = np.argsort(keys, kind="stable")
    if labels.ndim == 1:
        return np.concatenate(
            [order[labels[order] == label][:shots] for label in range(int(labels.max()) + 1)]
        )
    if labels.shape[1] == 0:
        return _spread(order, patients)[:shots]
    return _draw_positives(labels, order, shots)


def _spread(order: NDArray[np.int64], patients: Sequence[str] | None) -> NDArray[np.int64]:
    """Order items round-robin over patients."""
    if patients is None:
        return order
    seen: dict[str, int] = {}
    turns = []
    for item in order:
        turns.append(seen.get(patients[item], 0))
        seen[patients[item]] = turns[-1] + 1
    return order[np.argsort(turns, kind="stable")]


def _draw_positives(
    labels: NDArray[np.int64], order: NDArray[np.int64], shots: int
) -> NDArray[np.int64]:
    """Draw one more item per label in each of k rounds, so that the draws are nested."""
    positive = labels[order] == 1
    unlabelled = (labels[order] == 0).all(axis=1)
    groups = np.concatenate([positive, unlabelled[:, None]], axis=1)  # in the order of the hashes
    rarest_first = [*np.argsort(positive.sum(axis=0), kind="stable"), positive.shape[1]]
    chosen = np.zeros(len(order), dtype=bool)
    drawn_for: dict[int, int] = {}
    for count in range(1, shots + 1):
        for group in rarest_first:
            if (chosen & groups[:, group]).sum() >= count:
                continue
            for place in np.flatnonzero(groups[:, group] & ~chosen)[:1].tolist():
                chosen[place] = True
                drawn_for[place] = int(group)
    places = sorted(drawn_for, key=lambda place: (drawn_for[place], place))
    return order[places]


def strata(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the strata of folds: the class, or an item's rarest label; the last is no label."""
    if labels.ndim == 1:
        return labels
    if labels.shape[1] == 0:
        return np.zeros(len(labels), np.int64)
    positive = labels == 1
    rank = np.argsort(np.argsort(positive.sum(axis=0), kind="stable"), kind="stable")
    rarest = np.where(positive, rank, labels.shape[1])
    label_of_rank = np.append(np.argsort(rank, kind="stable"), labels.shape[1])
    chosen: NDArray[np.int64] = label_of_rank[rarest.min(axis=1)]
    return chosen


def groups(kind: str, classes: int) -> int:
    """Count the groups that a draw takes k items of: classes, labels and none, or images."""
    return {"multiclass": classes, "multilabel": classes + 1, "segmentation": 1}[kind]


def feasible(*, items: int, groups: int, shots: int | None, share: float) -> bool:
    """Return whether a few-shot budget uses less than ``share`` of the split."""
    return shots is None or shots * groups < share * items


def stratified_folds(labels: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Assign each drawn item a fold, 0 to ``folds`` - 1, class by class in turn.

    The items come in the random order of their draw, so no generator is needed. Each class
    continues where the last one stopped, so the folds' sizes differ by one at most.
    """
    position = np.empty(len(labels), dtype=np.int64)
    position[np.argsort(labels, kind="stable")] = np.arange(len(labels))
    return position % folds


def hold_out(labels: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Mark the last ``share`` of each class's drawn items, at least one where it has two."""
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        items = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(items))), len(items) - 1)
        held[items[len(items) - count :]] = True
    return held
