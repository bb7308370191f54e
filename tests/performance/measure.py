"""How a row of `make performance` is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.data.files.cache import cache_folder

__all__ = ["Measured", "Row", "map_images", "measure"]

_REPEATS = 5
_LIMIT = 60  # seconds that a row may take
_LONG = 10  # seconds after which a cold start matters no more


@dataclass(frozen=True)
class Measured:
    """What a row found.

    Attributes:
        values: One ratio or count a run.
        notes: What the reader should know, one line each.
    """

    values: list[float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: Its name.
        against: What ours is compared with.
        needed: The figure that the median should reach.
        run: Measures it.
        most: Whether the figure is the largest that will do, and not the smallest.
    """

    what: str
    against: str
    needed: float
    run: Callable[[], Measured]
    most: bool = False


def measure(ours: Callable[[], object], *theirs: tuple[Callable[[], object], float]) -> Measured:
    """Ratios of their time to ours over alternating runs; larger is better for us.

    Five of them, or as many as fit into a minute, at least one. A first run that was short only
    warms up.

    Args:
        ours: What is judged.
        theirs: What it is compared with, in parts: what runs, and how often its time counts.
    """
    begin = time.perf_counter()
    ratios: list[float] = []
    warm = False
    while len(ratios) < _REPEATS:
        start = time.perf_counter()
        ratio = sum(_time(part) * count for part, count in theirs) / _time(ours)
        now = time.perf_counter()
        if warm or now - start > _LONG:
            ratios.append(ratio)
        warm = True
        if ratios and now - begin + (now - start) > _LIMIT:
            break
    return Measured(ratios)


def _time(run: Callable[[], object]) -> float:
    """Seconds that a run takes, what it left to the GPU included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def map_images(items: int, size: int) -> NDArray[np.uint8]:
    """Random RGB images (items, size, size, 3), memory-mapped as the store's are."""
    path: Path = cache_folder() / f"images-{items}-{size}.npy"
    images = np.random.default_rng(0).integers(0, 256, (items, size, size, 3), dtype=np.uint8)
    np.save(path, images)
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
