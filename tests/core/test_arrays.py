"""The one reader of ``.npz`` files: whatever the bytes claim, an array or one line."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from medtransfer.core import arrays
from medtransfer.core.arrays import Archive
from medtransfer.core.errors import InputError


def saved(values, *, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    npy.write_array(buffer, values, version=version)
    return buffer.getvalue()


def write(path: Path, content: bytes, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write an archive of one member, ``a``."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.npy", content)
    return path


@pytest.mark.parametrize("size", [3, 2**19], ids=["small", "large"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_the_same_as_numpy(tmp_path: Path, size: int, version: tuple[int, int]) -> None:
    """Either order of memory, texts, and arrays without an item are read as numpy reads them."""
    rng = np.random.default_rng(0)
    for values in (
        rng.random((2, size)),
        np.asfortranarray(rng.random((2, size))),
        np.array(["a", "bcd"] * size),
        np.zeros((0, size), np.uint8),
        np.float32(7),
    ):
        path = write(tmp_path / "a.npz", saved(np.asarray(values), version=version))
        with Archive(path) as archive:
            array = archive.read("a")
        np.testing.assert_array_equal(array, values)
        assert array.dtype == np.asarray(values).dtype


@pytest.mark.parametrize("at_most", [1, 999, 2**30])
def test_batches_join_to_the_array(tmp_path: Path, at_most: int) -> None:
    """Batches hold whole items, one at least, and no more bytes than asked for."""
    values = np.random.default_rng(0).integers(0, 255, (50, 7, 3), np.uint8)
    with Archive(write(tmp_path / "a.npz", saved(values))) as archive:
        batches = list(archive.stream("a", at_most=at_most))
    np.testing.assert_array_equal(np.concatenate(batches), values)
    assert all(len(batch) == 1 or batch.nbytes <= at_most for batch in batches)


HEADER = b"\x93NUMPY\x01\x00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(np.ones(9))[:-1], "truncated: shape (9,) needs more bytes than the file has"),
        (saved(np.ones(9)) + b"0", "not the bytes of shape (9,)"),
        (b"\x93NUMPY\x03\x00" + bytes(99), ".npy format (3, 0) is not supported"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(99), "a header of 4,294,967"),
        (HEADER, "cannot be read, damaged"),
        (HEADER + b"\x20\x00{(((", "cannot be read, damaged"),
        (b"", "cannot be read, damaged"),
    ],
)
def test_bytes_that_are_not_what_they_claim(tmp_path: Path, content: bytes, message: str) -> None:
    """One line names the file, the member and what is wrong."""
    path = write(tmp_path / "a.npz", content)
    with Archive(path) as archive:
        for read in (archive.header, archive.read, lambda n: list(archive.stream(n, at_most=9))):
            with pytest.raises(InputError) as refused:
                read("a")
            assert str(refused.value).startswith(f"{path}: a: ") and message in str(refused.value)


def test_what_is_not_expected_is_refused(tmp_path: Path) -> None:
    """Type, shape and size are compared before the numbers are unpacked."""
    with Archive(write(tmp_path / "a.npz", saved(np.ones((2, 3)))), origin="a.npz") as archive:
        assert "a" in archive and "b" not in archive
        archive.read("a", dtype="<f8", shape=(None, 3), at_most=48)
        for options, message in (
            ({"dtype": "<f4"}, "a.npz: a: float64 of shape (2, 3); float32 is expected"),
            ({"shape": (2, None, 3)}, "a.npz: a: float64 of shape (2, 3); 2 x any x 3 is expected"),
            ({"at_most": 47}, "shape (2, 3) is larger than 47 bytes"),
        ):
            with pytest.raises(InputError) as refused:
                archive.read("a", **options)  # type: ignore[arg-type]
            assert message in str(refused.value)
        with pytest.raises(InputError, match=r"a\.npz: b: no such array"):
            archive.read("b")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_numpy_does_not_write(tmp_path: Path, method: int) -> None:
    """Their libraries unpack a block whole, so a bomb could not be bounded."""
    path = write(tmp_path / "a.npz", saved(np.ones(9)), method=method)
    with Archive(path) as archive, pytest.raises(InputError, match="unknown compression"):
        archive.read("a")


@pytest.mark.parametrize("items", [9, 2**18], ids=["small", "large"])
def test_checksums_are_verified(tmp_path: Path, items: int) -> None:
    """A flipped bit is found, whether an array is read whole or in batches."""
    path = write(tmp_path / "a.npz", saved(np.ones(items)), method=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") - 3] ^= 1
    path.write_bytes(content)
    with Archive(path) as archive:
        for read in (archive.read, lambda name: list(archive.stream(name, at_most=2**16))):
            with pytest.raises(InputError, match="a: cannot be read, damaged: Bad CRC"):
                read("a")


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of members is bounded."""
    np.savez(tmp_path / "a.npz", a=np.ones(1), b=np.ones(1))
    monkeypatch.setattr(arrays, "_MOST_MEMBERS", 1)
    with pytest.raises(InputError, match=r"a\.npz: more than 1 members"):
        Archive(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [b"", b"images", None])
def test_no_archive(tmp_path: Path, content: bytes | None) -> None:
    """A file that is none, and one that is not there."""
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: cannot be read, damaged or not a complete"):
        Archive(tmp_path / "a.npz")
