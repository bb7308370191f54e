"""The ``.npz`` layout of MedMNIST, in a user's file or an official one.

``<split>_images``; ``<split>_labels``, or ``<split>_masks`` for segmentation; ``label_names``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medtransfer.core.errors import InputError, suggest
from medtransfer.data.files.archives import DAMAGED_ARRAYS
from medtransfer.data.files.cache import check_folder
from medtransfer.data.files.download import find
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.official import ArraySet
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import NpzSource

__all__ = ["decode", "files", "identify", "open_official", "open_split"]

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_BATCH_BYTES = 16 * 2**20


def files(source: NpzSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """None: it is the user's own file."""
    return []


def identify(source: NpzSource, folder: Path | None, /) -> dict[str, Any]:
    """Path, size and time of change. The bytes are hashed once, when they are decoded."""
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
    """Open one split of an official file and hold it against the official table.

    Args:
        entry: The data set.
        file: Its file.
        folder: The user's data folder, searched before the download folder.
        split: Prefix of the arrays to read.
        size: Height and width that the images must have, in pixels.
        masks: Ending of the name of the masks' array.

    Raises:
        InputError: For a file that is not there, is damaged, or is not of the official shape.
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
    images = _open_images(path, f"{split}_images")
    items, members = images.shape[0], _members(path)
    pixels = None
    if f"{split}_{masks}" in members:
        pixels = _open_masks(path, f"{split}_{masks}", images=images.shape)
    if pixels is not None and f"{split}_labels" not in members:
        labels = np.empty((items, 0), np.int64)
    elif pixels is None and f"{split}_labels" not in members:
        found = ", ".join(name for name in members if name.startswith(f"{split}_"))
        raise InputError(
            f"{path}: {split}_labels: no such array, and no {split}_{masks} for segmentation; "
            f"found: {found}"
        )
    else:
        labels = _labels(path, f"{split}_labels", items=items)
    names = _read(path, "label_names") if "label_names" in members else None
    return Decoded(
        origin=path.name,
        shape=images.shape,
        images=_stream(images),
        labels=labels,
        # The row in the file: the official files have a fixed order, the same at every size.
        ids=[str(row) for row in range(items)],
        label_names=None if names is None else [str(name) for name in names.ravel()],
        masks=None if pixels is None else _stream(pixels),
    )


@dataclass(frozen=True)
class _Array:
    """A large array that is still in its file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _find(source: NpzSource, folder: Path | None) -> Path:
    if folder is None:
        raise InputError(f"{source.npz}: where is it? Pass --data DIR or set BENCH_DATA")
    check_folder(folder)
    path = folder / source.npz
    if not path.is_file():
        present = [file.name for file in folder.glob("*.npz")]
        raise InputError(f"{source.npz}: not found in {folder}{suggest(source.npz, present)}")
    return path


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [
                name.removesuffix(".npy")
                for name in archive.namelist()
                if name.endswith(".npy") and name.isprintable()
            ]
    except DAMAGED_ARRAYS as error:
        raise InputError(f"{path}: not a complete .npz file: {error}") from None


def _header(member: IO[bytes], origin: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in _HEADERS:
        raise InputError(f"{origin}: .npy format {version} is not supported; save it with numpy")
    shape, fortran, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise InputError(f"{origin}: holds pickled Python objects, which are never loaded")
    return shape, fortran, dtype


def _suggest(name: str, members: Iterable[str]) -> str:
    """What a name may have been meant to be: no array of another split."""
    others = {"train", "val", "test"} - {name.partition("_")[0]}
    return suggest(name, [one for one in members if one.partition("_")[0] not in others])


def _read(path: Path, name: str) -> NDArray[Any]:
    """Read one small array whole."""
    if name not in (members := _members(path)):
        raise InputError(f"{path}: {name}: no such array{_suggest(name, members)}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, _, dtype = _header(member, f"{path}: {name}")
            declared = archive.getinfo(f"{name}.npy").file_size
        # Before numpy sets aside what the header claims.
        if int(np.prod(shape, dtype=object)) * dtype.itemsize > declared:
            raise EOFError(f"shape {shape} needs more bytes than are there")
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            array: NDArray[Any] = npy.read_array(member, allow_pickle=False)
            return array
    except DAMAGED_ARRAYS as error:
        raise InputError(f"{path}: {name}: cannot be read, truncated or damaged: {error}") from None


def _open_images(path: Path, name: str) -> _Array:
    array = _open(path, name)
    origin, shape = f"{path}: {name}", array.shape
    if array.dtype != np.uint8:
        raise InputError(f"{origin}: {array.dtype} images; uint8 (0-255) is expected")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise InputError(f"{origin}: shape {shape}; (N, H, W) or (N, H, W, 3) is expected")
    if min(shape) < 1:
        raise InputError(f"{origin}: the split is empty (shape {shape})")
    return array


def _open_masks(path: Path, name: str, *, images: tuple[int, ...]) -> _Array:
    array = _open(path, name)
    if array.dtype.kind not in "biu":
        raise InputError(f"{path}: {name}: {array.dtype} masks; uint8 class ids are expected")
    if array.shape != images[:3]:
        raise InputError(
            f"{path}: {name}: shape {array.shape}; {images[:3]} is expected, one class id for "
            "each pixel of the images"
        )
    return array


def _open(path: Path, name: str) -> _Array:
    """Read an array's header, without setting aside what it claims."""
    if name not in (members := _members(path)):
        raise InputError(f"{path}: {name}: no such array{_suggest(name, members)}")
    origin = f"{path}: {name}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, fortran, dtype = _header(member, origin)
            declared = archive.getinfo(f"{name}.npy").file_size
    except DAMAGED_ARRAYS as error:
        raise InputError(f"{origin}: cannot be read, truncated or damaged: {error}") from None
    if fortran:
        raise InputError(f"{origin}: stored in Fortran order; save np.ascontiguousarray(array)")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > declared:
        raise InputError(f"{origin}: truncated: shape {shape} needs more bytes than are there")
    return _Array(path, name, shape, dtype)


def _stream(array: _Array) -> Iterator[NDArray[np.uint8]]:
    """Yield the array in batches of bounded size, so that a file may exceed the memory."""
    path, name, shape = array.path, array.name, array.shape
    item = int(np.prod(shape[1:])) * array.dtype.itemsize
    batch = max(1, _BATCH_BYTES // item)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            _header(member, name)
            for start in range(0, shape[0], batch):
                count = min(batch, shape[0] - start)
                data = member.read(count * item)
                if len(data) != count * item:
                    raise EOFError("the array ends early")
                values = np.frombuffer(data, array.dtype).reshape(count, *shape[1:])
                yield _narrow(values, array, first=start)
            member.read()  # reaches the end, where zipfile checks the CRC
    except DAMAGED_ARRAYS as error:
        raise InputError(f"{path}: {name}: truncated or damaged: {error}") from None


def _narrow(values: NDArray[Any], array: _Array, *, first: int) -> NDArray[np.uint8]:
    narrow: NDArray[np.uint8] = values.astype(np.uint8, copy=False)
    if values.dtype != np.uint8 and (wrong := narrow != values).any():
        item = first + int(np.argwhere(wrong)[0][0])
        raise InputError(
            f"{array.path}: {array.name}: value {values[wrong][0]}; 0 to 255 is expected "
            f"(item {item})"
        )
    return narrow


def _labels(path: Path, name: str, *, items: int) -> NDArray[np.int64]:
    """Class ids, (N,); or 1, 0 and -1 (unknown) for each of L labels, (N, L)."""
    labels = _read(path, name)
    origin = f"{path}: {name}"
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
    known = np.where(np.isnan(labels), -1, labels) if labels.dtype.kind == "f" else labels
    wrong = known[~np.isin(known, (-1, 0, 1))]
    if wrong.size:
        raise InputError(
            f"{origin}: shape {labels.shape} for {len(labels)} images is {labels.shape[1]} labels "
            f"each, so 1, 0 and -1 (unknown) are expected, not {wrong[0]}"
        )
    return known.astype(np.int64)
