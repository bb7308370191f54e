"""Read the ``.npz`` layout of MedMNIST, from a user's file or an official one.

``<split>_images``; ``<split>_labels``, or ``<split>_masks`` for segmentation; ``label_names``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.arrays import Archive, Header
from medtransfer.core.errors import InputError, suggest
from medtransfer.data.files.cache import check_folder
from medtransfer.data.files.download import find
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.official import ArraySet
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import NpzSource

_BATCH_BYTES = 16 * 2**20


def files(source: NpzSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Return no files: a user's file is never downloaded."""
    return []


def identify(source: NpzSource, folder: Path | None, /) -> dict[str, Any]:
    """Return path, size and modification time. The bytes are hashed once, when decoded."""
    path = _find(source, folder)
    status = path.stat()
    return {"path": str(path.resolve()), "size": status.st_size, "changed": status.st_mtime_ns}


def decode(source: NpzSource, folder: Path | None, /) -> Decoded:
    """Open one split of a user's file.

    Raises:
        InputError: Naming the file, the array, and what would be right.
    """
    return open_split(_find(source, folder), source.split)


def open_official(
    entry: ArraySet,
    file: RemoteFile,
    folder: Path | None,
    *,
    split: Literal["train", "val", "test"],
    size: int,
    masks: str = "masks",
) -> Decoded:
    """Open one split of an official file and check it against the official table.

    Args:
        entry: The data set.
        file: Its file.
        folder: The user's data folder, searched before the download folder.
        split: Prefix of the arrays to read.
        size: Height and width that the images must have, in pixels.
        masks: Ending of the name of the masks' array.

    Raises:
        InputError: For a file that is missing, damaged, or not of the official shape.
    """
    path = find(file, folder)
    if path is None:
        raise InputError(f"{file.name}: not found; `bench data fetch` downloads it")
    decoded = open_split(path, split, masks=masks)
    if decoded.shape != (shape := entry.shape(split, size)):
        raise InputError(
            f"{path}: {split}_images: shape {decoded.shape}; the official file has {shape}"
        )
    return replace(decoded, label_names=entry.labels)


def open_split(path: Path, split: str, *, masks: str = "masks") -> Decoded:
    """Open one split as a stream; labels and names are read at once.

    Pickled objects are never unpickled: an array that holds objects is refused.

    Args:
        path: The ``.npz`` file.
        split: Prefix of the arrays to read.
        masks: Ending of the name of the masks' array.

    Raises:
        InputError: Naming the file, the array, and what would be right.
    """
    with Archive(path) as archive:
        images = _check_images(archive, f"{split}_images")
        items, names = images[0], [name for name in archive.names if name.isprintable()]
        masked, labelled = f"{split}_{masks}" in names, f"{split}_labels" in names
        if masked:
            _check_masks(archive, f"{split}_{masks}", images=images)
        if labelled:
            labels = _read_labels(archive, f"{split}_labels", items=items)
        elif masked:
            labels = np.empty((items, 0), np.int64)
        else:
            present = ", ".join(name for name in names if name.startswith(f"{split}_"))
            raise InputError(
                f"{path}: {split}_labels: no such array, and no {split}_{masks} for segmentation; "
                f"found: {present}"
            )
        texts = archive.read("label_names").ravel() if "label_names" in names else None
    return Decoded(
        origin=path.name,
        shape=images,
        images=_stream(path, f"{split}_images"),
        labels=labels,
        # Rows in the file: the official files have the same order at every size.
        ids=[str(row) for row in range(items)],
        label_names=None if texts is None else [str(text) for text in texts],
        masks=_stream(path, f"{split}_{masks}") if masked else None,
    )


def _find(source: NpzSource, folder: Path | None) -> Path:
    if folder is None:
        raise InputError(f"{source.npz}: no data folder given; pass --data DIR or set BENCH_DATA")
    check_folder(folder)
    path = folder / source.npz
    if not path.is_file():
        present = [file.name for file in folder.glob("*.npz")]
        raise InputError(f"{source.npz}: not found in {folder}{suggest(source.npz, present)}")
    return path


def _check_images(archive: Archive, name: str) -> tuple[int, ...]:
    """Check the header of a split's images, and return their shape."""
    origin, header = f"{archive.origin}: {name}", _read_header(archive, name)
    shape = header.shape
    if header.dtype != np.uint8:
        raise InputError(f"{origin}: {header.dtype} images; uint8 (0-255) is expected")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise InputError(f"{origin}: shape {shape}; (N, H, W) or (N, H, W, 3) is expected")
    if min(shape) < 1:
        raise InputError(f"{origin}: the split is empty (shape {shape})")
    return shape


def _check_masks(archive: Archive, name: str, *, images: tuple[int, ...]) -> None:
    """Check the header of a split's masks."""
    origin, header = f"{archive.origin}: {name}", _read_header(archive, name)
    if header.dtype.kind not in "biu":
        raise InputError(f"{origin}: {header.dtype} masks; uint8 class ids are expected")
    if header.shape != images[:3]:
        raise InputError(
            f"{origin}: shape {header.shape}; {images[:3]} is expected, one class id for each "
            "pixel of the images"
        )


def _read_header(archive: Archive, name: str) -> Header:
    """Read the header of an array that is streamed later."""
    if name not in archive.names:
        # Arrays of other splits are no useful suggestion.
        others = {"train", "val", "test"} - {name.partition("_")[0]}
        near = [other for other in archive.names if other.partition("_")[0] not in others]
        raise InputError(f"{archive.origin}: {name}: no such array{suggest(name, near)}")
    header = archive.header(name)
    if header.fortran:
        raise InputError(
            f"{archive.origin}: {name}: stored in Fortran order; save np.ascontiguousarray(array)"
        )
    return header


def _stream(path: Path, name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield an array in batches of bounded size, so that a file may exceed the memory."""
    first = 0
    with Archive(path) as archive:
        for values in archive.stream(name, at_most=_BATCH_BYTES):
            narrow: NDArray[np.uint8] = values.astype(np.uint8, copy=False)
            if values.dtype != np.uint8 and (wrong := narrow != values).any():
                item = first + int(np.argwhere(wrong)[0][0])
                raise InputError(
                    f"{path}: {name}: value {values[wrong][0]}; 0 to 255 is expected (item {item})"
                )
            yield narrow
            first += len(values)


def _read_labels(archive: Archive, name: str, *, items: int) -> NDArray[np.int64]:
    """Read class ids, (N,); or 1, 0 and -1 (unknown) for each of L labels, (N, L)."""
    labels = archive.read(name)
    origin = f"{archive.origin}: {name}"
    if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == items:
        return _label_table(labels, origin)
    if labels.dtype.kind not in "iu":
        raise InputError(f"{origin}: {labels.dtype}; integer class ids are expected")
    if labels.shape not in ((items,), (items, 1)):
        raise InputError(f"{origin}: shape {labels.shape}, but there are {items} images")
    return labels.reshape(items).astype(np.int64)


def _label_table(labels: NDArray[Any], origin: str) -> NDArray[np.int64]:
    if labels.dtype.kind not in "biuf":
        raise InputError(f"{origin}: {labels.dtype}; 1, 0 and -1 (unknown) are expected")
    states = np.where(np.isnan(labels), -1, labels) if labels.dtype.kind == "f" else labels
    wrong = states[~np.isin(states, (-1, 0, 1))]
    if wrong.size:
        raise InputError(
            f"{origin}: shape {labels.shape} for {len(labels)} images is {labels.shape[1]} labels "
            f"each, so 1, 0 and -1 (unknown) are expected, not {wrong[0]}"
        )
    return states.astype(np.int64)
