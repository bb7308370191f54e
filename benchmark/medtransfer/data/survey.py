"""Survey a task's data on disk, without fetching or decoding anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core.errors import InputError
from medtransfer.data.files.download import find
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.labels import count_labels
from medtransfer.data.loaders import LOADERS
from medtransfer.data.split import Split
from medtransfer.data.store import stored_corruptions, stored_split
from medtransfer.specs.source import CorruptSource, PhantomSource
from medtransfer.specs.task import TaskCard


@dataclass(frozen=True)
class Found:
    """A published file.

    Attributes:
        file: What is published.
        path: Its path on disk, or ``None``.
    """

    file: RemoteFile
    path: Path | None


@dataclass(frozen=True)
class Survey:
    """The state of a task's data.

    Attributes:
        items: Number of items of each split; ``None`` where only the data can tell.
        counts: Items of each class (positives of each label) of the splits where it is known.
        on_disk: Bytes of the decoded and corrupted splits and of the downloaded files.
        missing: Published files that an evaluation would download.
        absent: Problem with a user's file, or empty.
    """

    items: dict[str, int | None]
    counts: dict[str, list[int]]
    on_disk: int
    missing: tuple[RemoteFile, ...]
    absent: str

    @property
    def ready(self) -> bool:
        """Return whether an evaluation needs no network and no further file."""
        return not self.missing and not self.absent

    @property
    def to_download(self) -> float:
        """Upper bound in bytes; NaN where a size is not published."""
        return sum(math.nan if file.at_most is None else file.at_most for file in self.missing)


def survey_files(card: TaskCard, folder: Path | None) -> list[Found]:
    """List the published files of a task, without repeats."""
    files = [
        file
        for source in card.sources.values()
        for file in LOADERS[type(source)].files(source, folder)
    ]
    return [Found(file, find(file, folder)) for file in dict.fromkeys(files)]


def survey_task(card: TaskCard, folder: Path | None) -> Survey:
    """Survey the data of one task.

    Args:
        card: The task card.
        folder: The user's data folder (``--data``).
    """
    items: dict[str, int | None] = {}
    splits: dict[str, Split] = {}
    counts = dict(card.counts)
    on_disk, absent = 0, ""
    missing: dict[RemoteFile, None] = {}
    for name, source in card.sources.items():
        split = stored_split(card, source, folder)
        items[name] = card.sizes.get(name)
        if split is not None:
            splits[name] = split
            on_disk += _bytes(split)
            items[name] = len(split)
            if card.kind != "segmentation":
                counts[name] = count_labels(split.labels, len(card.classes))
            continue
        if isinstance(source, PhantomSource):
            items[name] = source.items
        loader = LOADERS[type(source)]
        missing |= {
            file: None for file in loader.files(source, folder) if find(file, folder) is None
        }
        try:
            loader.identify(source, folder)
        except InputError as error:
            absent = absent or f"{name}: {error}"
    paths = {file.path for file in survey_files(card, folder) if file.path is not None}
    on_disk += sum(path.stat().st_size for path in paths)
    for name, test in card.test_splits.items():
        if isinstance(test, CorruptSource):
            base = items[test.corrupt]
            items[name] = None if base is None else min(base, test.items)
            clean = splits.get(test.corrupt)
            if clean is not None and (split := stored_corruptions(clean, test)) is not None:
                on_disk += _bytes(split)
    return Survey(items, counts, on_disk, tuple(missing), absent)


def _bytes(split: Split) -> int:
    return split.images.nbytes + (0 if split.masks is None else split.masks.nbytes)
