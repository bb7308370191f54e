"""Images of a run: the used items of the training splits, and their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.core.seeds import seed_of
from medtransfer.data.draws import strata
from medtransfer.data.split import Split
from medtransfer.specs.task import TaskCard

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """A training split and its used items.

    Attributes:
        card: The task.
        split: Its training split.
        items: Indices into the split.
    """

    card: TaskCard
    split: Split
    items: Integers

    @property
    def labels(self) -> Integers:
        """Labels of the items, (n,), (n, L) or (n, 0)."""
        return self.split.labels[self.items]


@dataclass(frozen=True, eq=False)  # hashed by identity, as the key of cached passes
class Pool:
    """Images of a run as one list, source after source.

    Attributes:
        sources: The training splits.
        batch_size: Images of a step.
        balanced: Whether all classes of all sources are sampled equally often.
    """

    sources: tuple[Source, ...]
    batch_size: int
    balanced: bool = False

    def __len__(self) -> int:
        """Number of distinct images."""
        return sum(len(source.items) for source in self.sources)

    @cached_property
    def starts(self) -> Integers:
        """Position in the list of each source's first image."""
        return np.cumsum([0, *(len(source.items) for source in self.sources[:-1])])

    @cached_property
    def seed(self) -> str:
        """Seed of all random choices of the run, the same for every network."""
        return "+".join(sorted(source.card.name for source in self.sources))

    def steps(self, epochs: float) -> int:
        """Compute the number of steps of some epochs."""
        return round(epochs * len(self) / self.batch_size)

    def batch(self, step: int) -> Integers:
        """Return the positions in the list of the images of a step, counted from 0.

        Shuffled passes over the list follow each other and are cut into equal batches. They depend
        on the step alone, so that a run resumes exactly.
        """
        start = step * self.batch_size
        end = start + self.batch_size
        passes = range(start // len(self), (end - 1) // len(self) + 1)
        queue = np.concatenate([_shuffle(self, number) for number in passes])
        offset = start - passes[0] * len(self)
        return queue[offset : offset + self.batch_size]

    @cached_property
    def classes(self) -> list[Integers]:
        """Positions of each class of each source; a multi-label item counts as its rarest label."""
        positions = []
        for start, source in zip(self.starts, self.sources, strict=True):
            labels = strata(source.labels)
            positions += [start + np.flatnonzero(labels == label) for label in np.unique(labels)]
        return positions


@lru_cache(maxsize=4)
def _shuffle(pool: Pool, number: int) -> Integers:
    rng = np.random.Generator(np.random.PCG64(seed_of("pretraining", pool.seed, "pass", number)))
    if not pool.balanced:
        return rng.permutation(len(pool))
    # Every class gets an equal share of the pass: the whole class as often as it fits, then a
    # part of it.
    ends = np.arange(len(pool.classes) + 1) * len(pool) // len(pool.classes)
    chosen = []
    for members, share in zip(pool.classes, np.diff(ends), strict=True):
        rounds = -(-share // len(members))
        chosen.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:share])
    return rng.permutation(np.concatenate(chosen))


def choose_items(split: Split, count: int, *, task: str) -> Integers:
    """Choose the first items of a split in an order that keeps its class proportions.

    Smaller subsets are nested in larger ones, on every machine: within a class the order is that of
    SHA-256(task, item id), as for few-shot draws, and the classes are merged evenly.
    """
    keys = [hashlib.sha256(f"pretraining/{task}/{name}".encode()).digest() for name in split.ids]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    labels = strata(split.labels)[order]
    place = np.empty(len(order))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(place, kind="stable")[:count]])


def share_out(sizes: Sequence[int], images: int | float | None) -> list[int]:
    """Distribute the images over the sources, in proportion to their sizes.

    Args:
        sizes: Sizes of the sources.
        images: Total number, or a fraction of all images; ``None`` takes all.

    Raises:
        InputError: When there are fewer, or a source would get none.
    """
    total = sum(sizes)
    if images is None:
        wanted = total
    elif isinstance(images, float):
        wanted = round(images * total)
    else:
        wanted = images
    if wanted > total:
        raise InputError(f"--images: {wanted} requested, but the sources have {total}")
    # One order of all images, each source evenly spread: smaller subsets are nested.
    place = np.concatenate([(np.arange(size) + 0.5) / max(1, size) for size in sizes])
    source = np.repeat(np.arange(len(sizes)), sizes)
    chosen = source[np.argsort(place, kind="stable")[:wanted]]
    counts: list[int] = np.bincount(chosen, minlength=len(sizes)).tolist()
    if 0 in counts:
        raise InputError(
            f"--images: {images if images is not None else 'all'} of {total} would leave a source "
            "without any image; more are needed"
        )
    return counts
