"""Store of decoded splits: memory-mapped arrays, built once and found by key.

An entry is built in a temporary folder and published by one rename, so readers never see a part of
it. A file lock makes a second builder wait for the first and reuse its entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medtransfer.core.documents import digest
from medtransfer.core.errors import InputError
from medtransfer.core.files import locked, replacing_folder
from medtransfer.data.checks import check_counts, check_task
from medtransfer.data.files.cache import cache_folder, cache_unwritable
from medtransfer.data.files.download import find, obtain
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.labels import conform
from medtransfer.data.loaders import LOADERS
from medtransfer.data.sources.corrupt import corrupted
from medtransfer.data.sources.decoded import Decoded
from medtransfer.data.split import Split, TaskData, corruption_recipe
from medtransfer.specs.source import CorruptSource, Source
from medtransfer.specs.task import TaskCard

_FORMAT = 3


def open_task(
    card: TaskCard,
    *,
    folder: Path | None,
    progress: Progress = SILENT,
    fetch: bool = True,
    corruptions: bool = True,
) -> TaskData:
    """Open every split of a task; fetch and decode those missing from the store.

    Args:
        card: The task card.
        folder: The user's data folder (``--data``).
        progress: Shows downloads and decoding.
        fetch: Whether missing files are downloaded.
        corruptions: Whether to open the corrupted splits, which a check of the data does not need.

    Raises:
        InputError: For data that are missing, damaged, or contradict the card.
    """
    splits = {
        name: open_split(card, name, folder=folder, progress=progress, fetch=fetch)
        for name in card.sources
    }
    data = TaskData(card, splits)
    check_task(data)
    for name, source in card.test_splits.items():
        if corruptions and isinstance(source, CorruptSource):
            try:
                splits[name] = _open_corrupted(splits[source.corrupt], source, progress)
            except InputError as error:
                raise InputError(f"{card.name}: {name}: {error}") from None
    return data


@cache
def _allow_many_files() -> None:
    """Raise the limit on open files: a suite maps hundreds, and some systems allow 256."""
    try:
        import resource
    except ImportError:  # Windows has neither the module nor such a limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def stored_split(card: TaskCard, source: Source, folder: Path | None) -> Split | None:
    """Open a split from the store, or return ``None``; nothing is fetched or decoded."""
    with suppress(InputError):  # raised for a missing file
        return _read(_entry(card, source, folder))
    return None


def _entry(card: TaskCard, source: Source, folder: Path | None) -> Path:
    """Return the folder of a split, keyed by its source, the source's bytes and the format."""
    identity = LOADERS[type(source)].identify(source, folder)
    parts = {
        "format": _FORMAT,
        "source": source.model_dump(exclude={"lineage"}),
        "identity": identity,
    }
    parts |= {"kind": card.kind, "classes": card.classes}
    return cache_folder() / "splits" / digest(parts)


def open_split(
    card: TaskCard, name: str, *, folder: Path | None, progress: Progress, fetch: bool
) -> Split:
    """Open one split of a task, except graded corruptions; see `open_task`."""
    _allow_many_files()
    source = card.sources[name]
    loader = LOADERS[type(source)]

    def decode() -> Decoded:
        for file in loader.files(source, folder):
            if not fetch and find(file, folder) is None:
                raise InputError(
                    f"{card.name}: {file.name}: not downloaded yet; run `bench data fetch` with "
                    "the same tasks"
                )
            obtain(file, folder, progress)
        decoded = loader.decode(source, folder)
        if decoded.patients is not None:  # equal numbers in two corpora are different patients
            patients = [f"{source.corpus}: {patient}" for patient in decoded.patients]
            decoded = replace(decoded, patients=patients)
        where = f"{card.name}: {name}"
        try:
            decoded = conform(decoded, card, source.select)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if decoded.masks is not None:
            decoded = replace(decoded, masks=_name_errors(decoded.masks, where))
        return decoded

    split = _open(_entry(card, source, folder), decode, progress)
    check_counts(card, name, split)
    return split


def _name_errors(batches: Iterable[NDArray[np.uint8]], where: str) -> Iterator[NDArray[np.uint8]]:
    """Name the split in errors of masks, which are raised while streaming."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def stored_corruptions(base: Split, source: CorruptSource) -> Split | None:
    """Open a corrupted split from the store, or return ``None``."""
    return _read(_corrupted_entry(base, source))


def _corrupted_entry(base: Split, source: CorruptSource) -> Path:
    """Return the folder of a corrupted split."""
    recipe = corruption_recipe(base, source)
    return cache_folder() / "splits" / digest({"format": _FORMAT, "corrupted": recipe})


def _open_corrupted(base: Split, source: CorruptSource, progress: Progress) -> Split:
    def decode() -> Decoded:
        return corrupted(
            source,
            images=base.images,
            labels=base.labels,
            ids=base.ids,
            patients=base.patients,
            masks=base.masks,
            origin=base.origin,
        )

    split = _open(_corrupted_entry(base, source), decode, progress)
    return replace(split, sha256=digest(corruption_recipe(base, source)))


def _open(entry: Path, decode: Callable[[], Decoded], progress: Progress) -> Split:
    """Read an entry of the store; build it first if missing or damaged."""
    try:
        if (split := _read(entry)) is not None:
            return split
        with locked(entry):
            if (split := _read(entry)) is None:
                if entry.exists():
                    progress.warn(f"{entry}: damaged; decoding the split again")
                decoded = decode()
                progress.decode(decoded.origin, int(np.prod(decoded.shape)))
                _build(decoded, entry)
                split = _read(entry)
    except OSError as error:
        raise cache_unwritable(entry, error) from None
    assert split is not None
    return split


def _read(entry: Path) -> Split | None:
    """Read an entry; ``None`` if missing or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {
            path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
            for path in entry.glob("*.npy")
        }
        arrays["labels"] = np.array(arrays["labels"])
        return Split(**arrays, **meta)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError, TypeError, KeyError):
        return None


def _build(decoded: Decoded, entry: Path) -> None:
    """Write a decoded split, replacing a damaged entry."""
    with replacing_folder(entry) as temporary:
        hasher = hashlib.sha256(repr(decoded.shape).encode())
        _write(temporary / "images.npy", decoded.images, decoded.shape, hasher.update)
        if decoded.masks is not None:
            _write(temporary / "masks.npy", decoded.masks, decoded.shape[:3], hasher.update)
        np.save(temporary / "labels.npy", decoded.labels)
        hasher.update(decoded.labels.astype("<i8").tobytes())
        # The draws are made from the ids, and the bootstrap from the patients.
        hasher.update("\n".join([*decoded.ids, *(decoded.patients or [])]).encode())
        meta = {
            "ids": decoded.ids,
            "sha256": hasher.hexdigest(),
            "origin": decoded.origin,
            "patients": decoded.patients,
        }
        (temporary / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _write(
    path: Path,
    batches: Iterable[NDArray[np.uint8]],
    shape: tuple[int, ...],
    update: Callable[[memoryview], None],
) -> None:
    """Write batches as one ``.npy`` array of a known shape, one after the other."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
        npy.write_array_header_1_0(file, header)
        written = 0
        for batch in batches:
            data = np.ascontiguousarray(batch).reshape(-1).data  # no copy
            update(data)
            written += file.write(data)
    assert written == int(np.prod(shape)), f"{path.name}: {written} bytes for shape {shape}"
