"""The rows of a submission's ``replicates.npz``: thousands of small arrays, read in one go."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_rows"]

_LARGEST = 2**20  # bytes of a row; a submission must not unpack to more than the memory holds
_METHODS = {zipfile.ZIP_STORED: 0, zipfile.ZIP_DEFLATED: -15}


def read_rows(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read every array of an archive of short rows of numbers.

    `numpy.load` takes 200 microseconds an array, most of it for parsing the same header again; a
    board of 200 encoders has over a million of them. Nothing is unpickled.

    Returns:
        float32 (B,) by name.

    Raises:
        OSError: When the file cannot be read.
        ValueError: When it is no such archive, or damaged.
    """
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    return {member.filename.removesuffix(".npy"): _read(data, member) for member in members}


def _read(data: bytes, member: zipfile.ZipInfo) -> NDArray[np.float32]:
    if member.compress_type not in _METHODS or member.file_size > _LARGEST:
        raise ValueError(f"{member.filename}: not a short row of numbers")
    try:
        name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
        start = member.header_offset + 30 + name + extra
        raw = data[start : start + member.compress_size]
        if member.compress_type == zipfile.ZIP_DEFLATED:
            raw = zlib.decompressobj(-15).decompress(raw, member.file_size + 1)
        if len(raw) != member.file_size or zlib.crc32(raw) != member.CRC:
            raise ValueError(f"{member.filename}: damaged")
        (length,) = struct.unpack_from("<H", raw, 8)
        kind, count = _parse(raw[: 10 + length])
        return np.frombuffer(raw, kind, count, 10 + length).astype(np.float32)
    except (struct.error, zlib.error) as error:
        raise ValueError(f"{member.filename}: damaged: {error}") from None


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
