"""Few-shot draws: which training items a budget gives, the same on every machine.

Each class is ordered by the SHA-256 of (task, draw, item id) and its first k items are taken.
So the draws are nested (the 5 shots of a draw are among its 10), and they depend on no random
generator of any library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_items", "feasible", "hold_out", "seed_of", "stratified_folds"]


def seed_of(*parts: object) -> int:
    """A 63-bit seed from the parts' text, for a local generator."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def draw_items(
    labels: NDArray[np.int64], ids: Sequence[str], *, shots: int | None, task: str, draw: int
) -> NDArray[np.int64]:
    """Choose the training items of one draw.

    Args:
        labels: Labels of the training split, (N,).
        ids: Their N item ids.
        shots: Items per class, fewer where a class has fewer; ``None`` takes all items.
        task: The task's name.
        draw: The draw's number.

    Returns:
        Indices into the split, class by class, each class in the order of its hashes.
    """
    if shots is None:
        return np.arange(len(labels))
    keys = np.array(
        [hashlib.sha256(f"{task}/{draw}/{item}".encode()).hexdigest() for item in ids], dtype="S64"
    )
    order = np.argsort(keys, kind="stable")
    return np.concatenate(
        [order[labels[order] == label][:shots] for label in range(int(labels.max()) + 1)]
    )


def feasible(*, items: int, classes: int, shots: int | None, share: float) -> bool:
    """Whether a few-shot budget is a real subset: it uses less than ``share`` of the split."""
    return shots is None or shots * classes < share * items


def stratified_folds(labels: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """The fold, 0 to ``folds`` - 1, of each drawn item: each class is dealt out in turn.

    The items come in the random order of their draw, so dealing needs no generator. Where a
    class stops dealing the next one goes on, so that the folds' sizes differ by one at most.
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
