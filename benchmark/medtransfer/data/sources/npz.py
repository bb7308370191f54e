"""The ``.npz`` layout of MedMNIST: ``<split>_images``, ``<split>_labels``, ``label_names``."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.base import InputError, suggest
from medtransfer.specs.task import NpzSource

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_BATCH_BYTES = 64 * 2**20

# What numpy and zipfile raise on bytes that are not what they claim to be.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,  # of the header, which is a Python literal
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # encrypted, or compressed in an unknown way
)


def identify(source: NpzSource, folder: Path | None, /) -> dict[str, Any]:
    """Path, size and time of change. The bytes are hashed once, when they are decoded."""
    path = _find(source, folder)
    status = path.stat()
    return {"path": str(path.resolve()), "size": status.st_size, "changed": status.st_mtime_ns}


def decode(source: NpzSource, folder: Path | None, /) -> Decoded:
    """Open one split as a stream; labels and names are read at once.

    Pickled objects are never unpickled: an array that holds objects is refused.

    Raises:
        InputError: Naming the file, the array, and what would be right.
    """
    path = _find(source, folder)
    shape = _images_header(path, f"{source.split}_images")
    labels = _labels(path, f"{source.split}_labels", items=shape[0])
    names = _read(path, "label_names") if "label_names" in _members(path) else None
    return Decoded(
        origin=path.name,
        shape=shape,
        images=_stream(path, f"{source.split}_images", shape),
        labels=labels,
        # The row in the file: the official files have a fixed order, the same at every size.
        ids=[str(row) for row in range(shape[0])],
        label_names=None if names is None else [str(name) for name in names.ravel()],
    )


def _find(source: NpzSource, folder: Path | None) -> Path:
    if folder is None:
        raise InputError(f"{source.npz}: where is it? Pass --data DIR or set BENCH_DATA")
    if not folder.is_dir():
        raise InputError(f"--data: {folder} is not a folder")
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
    except _BROKEN as error:
        raise InputError(f"{path}: not a complete .npz file: {error}") from None


def _header(member: IO[bytes], origin: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in _HEADERS:
        raise InputError(f"{origin}: .npy format {version} is not supported; save it with numpy")
    shape, fortran, dtype = _HEADERS[version](member)
    if dtype.hasobject:
        raise InputError(f"{origin}: holds pickled Python objects, which are never loaded")
    return shape, fortran, dtype


def _read(path: Path, name: str) -> NDArray[Any]:
    """Read one small array whole."""
    if name not in (members := _members(path)):
        raise InputError(f"{path}: {name}: no such array{suggest(name, members)}")
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
    except _BROKEN as error:
        raise InputError(f"{path}: {name}: cannot be read, truncated or damaged: {error}") from None


def _images_header(path: Path, name: str) -> tuple[int, ...]:
    if name not in (members := _members(path)):
        raise InputError(f"{path}: {name}: no such array{suggest(name, members)}")
    origin = f"{path}: {name}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, fortran, dtype = _header(member, origin)
            declared = archive.getinfo(f"{name}.npy").file_size
    except _BROKEN as error:
        raise InputError(f"{origin}: cannot be read, truncated or damaged: {error}") from None
    if dtype != np.uint8:
        raise InputError(f"{origin}: {dtype} images; uint8 (0-255) is expected")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
        raise InputError(f"{origin}: shape {shape}; (N, H, W) or (N, H, W, 3) is expected")
    if min(shape) < 1:
        raise InputError(f"{origin}: the split is empty (shape {shape})")
    if fortran:
        raise InputError(f"{origin}: stored in Fortran order; save np.ascontiguousarray(images)")
    if int(np.prod(shape, dtype=object)) > declared:
        raise InputError(f"{origin}: truncated: shape {shape} needs more bytes than are there")
    return shape


def _stream(path: Path, name: str, shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in batches of bounded size, so that a file may exceed the memory."""
    item = int(np.prod(shape[1:]))
    batch = max(1, _BATCH_BYTES // item)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            _header(member, name)
            for start in range(0, shape[0], batch):
                count = min(batch, shape[0] - start)
                data = member.read(count * item)
                if len(data) != count * item:
                    raise EOFError("the array ends early")
                yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])
            member.read()  # reaches the end, where zipfile checks the CRC
    except _BROKEN as error:
        raise InputError(f"{path}: {name}: truncated or damaged: {error}") from None


def _labels(path: Path, name: str, *, items: int) -> NDArray[np.int64]:
    labels = _read(path, name)
    origin = f"{path}: {name}"
    if labels.dtype.kind not in "iu":
        raise InputError(f"{origin}: {labels.dtype}; integer class ids are expected")
    if labels.shape not in ((items,), (items, 1)):
        raise InputError(f"{origin}: shape {labels.shape}, but there are {items} images")
    return labels.reshape(items).astype(np.int64)
