"""The rows of a submission's ``replicates.npz``: thousands of small arrays, read in one go."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_rows"]

_LARGEST = 2**20  # bytes of a row; a submission must not unpack to more than the memory holds
_DAMAGE = (struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENTRY = struct.Struct("<4s6xH4xLLLHHH8xL")


def read_rows(path: Path, *, suffix: str = "") -> dict[str, NDArray[np.float32]]:
    """Read the arrays of an archive of short rows of numbers.

    `numpy.load` takes 200 microseconds an array, `zipfile` ten for its entry in the directory; a
    board of 200 encoders has over a million of them. Nothing is unpickled.

    Args:
        path: As `numpy.savez` writes it, compressed or not.
        suffix: Only arrays whose names end so.

    Returns:
        float32 (B,) by name.

    Raises:
        OSError: When the file cannot be read.
        ValueError: When it is no such archive, or damaged.
    """
    data = path.read_bytes()
    ending = f"{suffix}.npy".encode()
    try:
        return {
            name[:-4].decode(): _read(data, name, entry)
            for name, entry in _list(data)
            if name.endswith(ending)
        }
    except (*_DAMAGE, UnicodeDecodeError) as error:
        raise ValueError(f"damaged: {error}") from None


def _list(data: bytes) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    """The directory at the end of a zip file (PKWARE's APPNOTE.TXT, 4.3.12 and 4.3.16).

    Yields:
        Name of a member; and method, checksum, its size packed and unpacked, and its offset.
    """
    end = data.rfind(b"PK\5\6")
    if end < 0:
        raise ValueError("not a zip file, or cut short")
    count, _, offset = struct.unpack_from("<HLL", data, end + 10)
    if count == 2**16 - 1 or offset == 2**32 - 1:  # the larger form of the directory
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for m in archive.infolist():
                sizes = (m.compress_size, m.file_size, m.header_offset)
                yield m.filename.encode(), (m.compress_type, m.CRC, *sizes)
        return
    for _ in range(count):
        signature, method, crc, packed, size, name, extra, comment, start = _ENTRY.unpack_from(
            data, offset
        )
        if signature != b"PK\1\2":
            raise ValueError("damaged: its directory")
        yield data[offset + 46 : offset + 46 + name], (method, crc, packed, size, start)
        offset += 46 + name + extra + comment


def _read(data: bytes, name: bytes, entry: tuple[int, ...]) -> NDArray[np.float32]:
    method, crc, packed, size, offset = entry
    if method not in _METHODS or size > _LARGEST:
        raise ValueError(f"{name.decode()}: not a short row of numbers")
    own, extra = struct.unpack_from("<HH", data, offset + 26)
    start = offset + 30 + own + extra
    raw = data[start : start + packed]
    if method == zipfile.ZIP_DEFLATED:
        raw = zlib.decompressobj(-15).decompress(raw, size + 1)
    if len(raw) != size or zlib.crc32(raw) != crc:
        raise ValueError(f"{name.decode()}: damaged")
    (length,) = struct.unpack_from("<H", raw, 8)
    kind, count = _parse(raw[: 10 + length])
    return np.frombuffer(raw, kind, count, 10 + length).astype(np.float32, copy=False)


@cache
def _parse(header: bytes) -> tuple[np.dtype[np.floating], int]:
    """Type and length of an array, by its header in numpy's format."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of numpy's format")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    if kind.kind != "f" or len(shape) != 1 or not shape[0]:
        raise ValueError(f"an array of shape {shape} and type {kind}; a row of numbers is expected")
    return kind, shape[0]
