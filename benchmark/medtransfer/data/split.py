"""Splits: the decoded images, labels and masks of a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.documents import digest
from medtransfer.corruptions import REVISION as CORRUPTIONS_REVISION
from medtransfer.specs.source import CorruptSource
from medtransfer.specs.task import TaskCard


@dataclass(frozen=True)
class Split:
    """One split of a task.

    Attributes:
        images: uint8, memory-mapped, (N, H, W) or (N, H, W, 3).
        labels: int64, (N,) class ids; multilabel (N, L) with 1, 0 and -1 for unknown;
            segmentation (N, 0), the truth being in ``masks``.
        ids: N item ids.
        sha256: Hash of the decoded images and masks, the labels and the ids; for a corrupted
            split, of its recipe.
        origin: Name in error messages.
        patients: Patient of each item, where known; unique over corpora.
        masks: uint8 class ids, memory-mapped, (N, H, W).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: list[str]
    sha256: str
    origin: str
    patients: list[str] | None = None
    masks: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Number of items."""
        return len(self.labels)

    @property
    def class_maps(self) -> NDArray[np.uint8]:
        """Masks of a segmentation task, (N, H, W).

        Raises:
            TypeError: Where the split has labels and no masks.
        """
        if self.masks is None:
            raise TypeError(f"{self.origin}: has no masks")
        return self.masks

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images in order, ``size`` at a time, read from the file.

        A pass over a memory map would leave every page of it in the process's resident memory.
        """
        if not isinstance(self.images, np.memmap):  # held in memory by the caller
            for start in range(0, len(self), size):
                yield np.array(self.images[start : start + size])
            return
        item = int(np.prod(self.images.shape[1:]))
        with Path(str(self.images.filename)).open("rb") as file:
            file.seek(self.images.offset)
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                pixels = np.fromfile(file, np.uint8, count * item)
                yield pixels.reshape(count, *self.images.shape[1:])


@dataclass(frozen=True)
class TaskData:
    """A task card together with its decoded splits.

    Attributes:
        card: The card.
        splits: ``train``, ``validation`` and every test split.
    """

    card: TaskCard
    splits: dict[str, Split]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all card fields and data, corrupted splits included, that change numbers."""
        hashes = {name: split.sha256 for name, split in self.splits.items()}
        for name, source in self.card.test_splits.items():
            if isinstance(source, CorruptSource):  # hashed by its recipe, so it need not be decoded
                hashes[name] = digest(corruption_recipe(self.splits[source.corrupt], source))
        return self.card.fingerprint(hashes)

    @property
    def tests(self) -> dict[str, Split]:
        """The test splits; ``in_domain`` comes first."""
        return {name: self.splits[name] for name in self.card.test_splits}


def corruption_recipe(base: Split, source: CorruptSource) -> list[object]:
    """List the inputs of a corrupted split; their hash stands for the split.

    Hashes of pixels would differ between library versions, which may change the last bit;
    results must stay comparable.
    """
    return [base.sha256, source.kinds, source.severities, source.items, CORRUPTIONS_REVISION]
