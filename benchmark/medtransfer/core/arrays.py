"""Read untrusted ``.npz`` files: numbers only, of bounded size."""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from medtransfer.core.errors import InputError

_MOST_MEMBERS = 1_000_000
_LARGEST = 2**31  # bytes of an array that is read whole
_SMALL = 2**20  # bytes of an array that is unpacked at once, in half the time
_LONGEST = 2**16  # bytes of an array's header
# The methods that numpy writes. Others unpack a whole block at once, without bound on its size.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I")}
_PARSERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Raised by zipfile and numpy for damaged bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # encrypted, or compressed in an unknown way
    # From an array's header, which numpy reads as a Python literal.
    tokenize.TokenError,
    ValueError,
    TypeError,
    SyntaxError,
    MemoryError,
)


class Header(NamedTuple):
    """Description of an array, in front of its numbers."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int  # bytes before the numbers

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """An ``.npz`` file that need not be trusted.

    Nothing is unpickled. The size of an array is compared with the archive's directory before
    anything is unpacked, and its checksum is verified when its end is reached.

    Attributes:
        members: Names of all members, as they stand in the directory.
        names: Names of the arrays, without ``.npy``.
    """

    def __init__(self, path: Path, *, origin: str | None = None) -> None:
        """Open the file and read its directory.

        Args:
            path: The file.
            origin: Name of the file in messages; default is its path.

        Raises:
            InputError: When it cannot be read, is no ``.npz`` file, or has too many members.
        """
        self.origin = origin or str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise InputError(
                f"{self.origin}: cannot be read, damaged or not a complete .npz file: {error}"
            ) from None
        self.members = self._zip.namelist()
        self.names = [name[:-4] for name in self.members if name.endswith(".npy")]
        if len(self.members) > _MOST_MEMBERS:
            self._zip.close()
            raise InputError(f"{self.origin}: more than {_MOST_MEMBERS:,} members")

    def __contains__(self, name: str) -> bool:
        """Return whether there is an array of this name."""
        return f"{name}.npy" in self._zip.NameToInfo

    def __enter__(self) -> Archive:
        """Return the open archive."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._zip.close()

    def header(self, name: str) -> Header:
        """Read the description of an array, without its numbers.

        Raises:
            InputError: When it is missing, damaged, or of Python objects.
        """
        with self._open(name) as (_, header):
            return header

    def read(
        self,
        name: str,
        *,
        dtype: DTypeLike | None = None,
        shape: tuple[int | None, ...] | None = None,
        at_most: int = _LARGEST,
    ) -> NDArray[Any]:
        """Read an array whole.

        Args:
            name: Its name.
            dtype: Its expected type; ``None`` takes any but Python objects.
            shape: Its expected shape, in which ``None`` takes any length; ``None`` takes any.
            at_most: Bytes that it may have.

        Returns:
            The array, read-only.

        Raises:
            InputError: When it is missing, damaged, of Python objects, or not as expected.
        """
        with self._open(name) as (member, header):
            expect_array(f"{self.origin}: {name}", header, dtype, shape)
            if header.size > at_most:
                raise ValueError(f"shape {header.shape} is larger than {at_most:,} bytes")
            content = member.read(header.size)
            # Reading to the end makes zipfile verify the checksum.
            if member.read(1) or len(content) != header.size:
                raise EOFError("the array ends early")
            order: Literal["F", "C"] = "F" if header.fortran else "C"
            return np.ndarray(header.shape, header.dtype, content, order=order)

    def stream(self, name: str, *, at_most: int) -> Iterator[NDArray[Any]]:
        """Yield an array in C order, in batches along its first axis: it may exceed the memory.

        Args:
            name: Its name.
            at_most: Bytes of a batch; at least one item is in each.

        Raises:
            InputError: When it is missing or damaged, at the batch where that shows.
        """
        with self._open(name) as (member, header):
            items, *rest = header.shape
            item = max(1, math.prod(rest) * header.dtype.itemsize)
            batch = max(1, at_most // item)
            for start in range(0, items, batch):
                count = min(batch, items - start)
                content = member.read(count * item)
                if len(content) != count * item:
                    raise EOFError("the array ends early")
                yield np.ndarray((count, *rest), header.dtype, content)
            member.read(1)  # reading to the end makes zipfile verify the checksum

    @contextmanager
    def _open(self, name: str) -> Iterator[tuple[IO[bytes], Header]]:
        """Open a member and read its header, after comparing it with the directory."""
        try:
            info = self._zip.getinfo(f"{name}.npy")
        except KeyError:
            raise InputError(f"{self.origin}: {name}: no such array") from None
        try:
            if info.compress_type not in _METHODS:
                raise ValueError("unknown compression; save it with numpy")
            with self._unpack(info) as member:
                header = _read_header(member)
                if header.dtype.hasobject:
                    raise InputError(
                        f"{self.origin}: {name}: holds pickled Python objects, which are never "
                        "loaded"
                    )
                if header.size > info.file_size - header.start:
                    raise ValueError(
                        f"truncated: shape {header.shape} needs more bytes than the file has"
                    )
                if header.size < info.file_size - header.start:
                    raise ValueError(f"not the bytes of shape {header.shape}")
                yield member, header
        except _DAMAGE as error:
            raise InputError(f"{self.origin}: {name}: cannot be read, damaged: {error}") from None

    def _unpack(self, info: zipfile.ZipInfo) -> IO[bytes]:
        if info.file_size > _SMALL:
            return self._zip.open(info)
        return io.BytesIO(self._zip.read(info))  # verifies the checksum, too


def expect_array(
    origin: str,
    array: NDArray[Any] | Header,
    dtype: DTypeLike | None,
    shape: tuple[int | None, ...] | None,
) -> None:
    """Refuse an array of another type or shape.

    Args:
        origin: File and name, for messages.
        array: The array, or the description of one that is not read yet.
        dtype: Its expected type; ``None`` takes any.
        shape: Its expected shape, in which ``None`` takes any length; ``None`` takes any.

    Raises:
        InputError: When type or shape differs.
    """
    fits = shape is None or (
        len(array.shape) == len(shape)
        and all(wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True))
    )
    if fits and (dtype is None or array.dtype == np.dtype(dtype)):
        return
    expected = [] if dtype is None else [str(np.dtype(dtype))]
    if shape is not None:
        expected.append(" x ".join("any" if length is None else str(length) for length in shape))
    raise InputError(
        f"{origin}: {array.dtype} of shape {array.shape}; {' of '.join(expected)} is expected"
    )


def add_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Add an array to a zip file that is open for writing, as `numpy.savez` does."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        npy.write_array(member, array, allow_pickle=False)


def _read_header(member: IO[bytes]) -> Header:
    start = member.read(npy.MAGIC_LEN)
    version = npy.read_magic(io.BytesIO(start))
    if version not in _LENGTHS:
        raise ValueError(f".npy format {version} is not supported; save it with numpy")
    length = _LENGTHS[version]
    start += member.read(length.size)
    (size,) = length.unpack(start[npy.MAGIC_LEN :].ljust(length.size, b"\0"))
    if size > _LONGEST:
        raise ValueError(f"a header of {size:,} bytes")
    return _parse_header(version, start + member.read(size))


@lru_cache(maxsize=1000)
def _parse_header(version: tuple[int, int], content: bytes) -> Header:
    """Parse a header; thousands of arrays share one, and numpy takes 100 microseconds for it."""
    stream = io.BytesIO(content)
    stream.seek(npy.MAGIC_LEN)
    return Header(*_PARSERS[version](stream), len(content))
