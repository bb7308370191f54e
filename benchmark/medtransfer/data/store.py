"""The store: each split is decoded once into memory-mapped arrays and found by its key.

A build happens in a temporary folder and becomes visible by one rename, so a reader never sees a
half-written entry; a file lock makes a second builder wait and then find the first one's entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from medtransfer.data.sources import LOADERS
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.base import InputError, digest
from medtransfer.specs.task import Source, TaskCard

__all__ = ["Split", "TaskData", "cache_folder", "open_task"]

_FORMAT = 1


def cache_folder() -> Path:
    """Where decoded splits and frozen features are kept: ``BENCH_CACHE`` or the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medtransfer"
    return Path(os.environ.get("BENCH_CACHE") or default)


@dataclass(frozen=True)
class Split:
    """One split of a task.

    Attributes:
        images: uint8, memory-mapped, (N, H, W) or (N, H, W, 3).
        labels: int64, (N,).
        ids: N item ids.
        sha256: Of the decoded images and labels.
        label_names: Class names that came with the data, if any did.
        origin: What error messages call it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: list[str]
    sha256: str
    label_names: list[str] | None
    origin: str

    def __len__(self) -> int:
        """Number of items."""
        return len(self.labels)


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
        """Hash of the card's fields that change numbers, and of the data."""
        return self.card.fingerprint({name: split.sha256 for name, split in self.splits.items()})

    @property
    def tests(self) -> dict[str, Split]:
        """The test splits; ``in_domain`` comes first."""
        return {name: self.splits[name] for name in self.card.test_splits}


def open_task(card: TaskCard, *, folder: Path | None) -> TaskData:
    """Open every split of a task, decoding what is not in the store yet.

    Args:
        card: The task card.
        folder: Where files are looked for (``--data``).

    Raises:
        InputError: For data that are missing, damaged, or contradict the card.
    """
    splits = {}
    for name, source in card.splits.items():
        splits[name] = _open(source, folder)
        _agree(card, name, splits[name])
    data = TaskData(card, splits)
    counts = np.bincount(data.splits["train"].labels, minlength=len(card.classes))
    if (absent := np.flatnonzero(counts == 0)).size:
        raise InputError(
            f"{card.name}: train: class '{card.classes[absent[0]]}' has no training example"
        )
    return data


def _agree(card: TaskCard, name: str, split: Split) -> None:
    """Refuse labels and class names that contradict the card."""
    where = f"{card.name}: {name}: {split.origin}"
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= len(card.classes):
        wrong = low if low < 0 else high
        raise InputError(
            f"{where}: label {wrong} is outside the card's {len(card.classes)} classes (0 to "
            f"{len(card.classes) - 1})"
        )
    if split.label_names is not None:
        found, expected = map(_normalise, (split.label_names, card.classes))
        if found != expected:
            raise InputError(
                f"{where}: label_names {split.label_names} contradict the card's classes "
                f"{card.classes}"
            )


def _normalise(names: list[str]) -> list[str]:
    """Class names without case and punctuation: 'non-COVID' and 'non_covid' are one class.

    What alone tells two classes apart stays: 'ER+' and 'ER-' are two.
    """
    lower = [name.lower() for name in names]
    bare = ["".join(c for c in name if c.isalnum()) for name in lower]
    return next((form for form in (bare, lower) if len(set(form)) == len(names)), names)


def _open(source: Source, folder: Path | None) -> Split:
    loader = LOADERS[type(source)]
    identity = loader.identify(source, folder)
    key = digest({"format": _FORMAT, "source": source.model_dump(), "identity": identity})
    entry = cache_folder() / "splits" / key
    if (split := _read(entry)) is not None:
        return split
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock"):
            if (split := _read(entry)) is None:
                _build(loader.decode(source, folder), entry)
                split = _read(entry)
    except OSError as error:
        raise InputError(
            f"{entry.parent}: cannot be written: {error.strerror}; set BENCH_CACHE to a folder "
            "with room"
        ) from None
    assert split is not None
    return split


def _read(entry: Path) -> Split | None:
    """Open an entry, or ``None`` when it is absent or damaged (it is then built again)."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(entry / "labels.npy", allow_pickle=False)
        return Split(images=images, labels=labels, **meta)
    except (OSError, ValueError, EOFError, TypeError):
        return None


def _build(decoded: Decoded, entry: Path) -> None:
    """Write a decoded split to a temporary folder and move it into place."""
    temporary = Path(tempfile.mkdtemp(prefix="build-", dir=entry.parent))
    try:
        images = np.lib.format.open_memmap(
            temporary / "images.npy", mode="w+", dtype=np.uint8, shape=decoded.shape
        )
        hasher = hashlib.sha256(repr(decoded.shape).encode())
        start = 0
        for batch in decoded.images:
            images[start : start + len(batch)] = batch
            hasher.update(np.ascontiguousarray(batch).tobytes())
            start += len(batch)
        images.flush()
        del images
        np.save(temporary / "labels.npy", decoded.labels)
        hasher.update(decoded.labels.astype("<i8").tobytes())
        meta = {
            "ids": decoded.ids,
            "sha256": hasher.hexdigest(),
            "label_names": decoded.label_names,
            "origin": decoded.origin,
        }
        (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        if entry.exists():  # damaged, or _read would have opened it
            shutil.rmtree(entry)
        temporary.rename(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
