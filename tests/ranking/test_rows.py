"""Reading replicates: the same as numpy, and no trust in what is handed in."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medtransfer.ranking.records.replicates import read_rows


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_same_as_numpy(tmp_path: Path, save) -> None:
    """Stored or compressed, of either precision, NaN included."""
    rng = np.random.default_rng(0)
    arrays = {
        "task/1-shot/knn/0/in_domain": rng.normal(size=200).astype("f4"),
        "task/full/knn/0/other-scanner": np.where(rng.random(7) < 0.5, np.nan, 1.0),
    }
    save(tmp_path / "replicates.npz", **arrays)
    found = read_rows(tmp_path / "replicates.npz")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values.astype("f4"))


def test_only_what_ends_so(tmp_path: Path) -> None:
    """A suffix chooses arrays by the end of their names."""
    names = ["a/in_domain", "a/scanner", "a/not_in_domain", "b/in_domain"]
    np.savez(tmp_path / "replicates.npz", **{name: np.ones(3, "f4") for name in names})
    assert list(read_rows(tmp_path / "replicates.npz", suffix="/in_domain")) == [
        "a/in_domain",
        "b/in_domain",
    ]


def test_more_members_than_a_small_directory_holds(tmp_path: Path) -> None:
    """From 65,535 on the directory has another form; nothing is lost."""
    row, count = saved(np.arange(2, dtype="f4")), 2**16 + 3
    with zipfile.ZipFile(tmp_path / "replicates.npz", "w") as file:
        for number in range(count):
            file.writestr(f"{number}.npy", row)
    found = read_rows(tmp_path / "replicates.npz")
    assert len(found) == count
    np.testing.assert_array_equal(found[f"{count - 1}"], [0, 1])


def test_a_damaged_end_of_the_larger_form(tmp_path: Path) -> None:
    """It is an error like any other, not a traceback of the library."""
    content = bytearray(archive(("a.npy", saved(np.ones(4)))))
    struct.pack_into(
        "<HHLL", content, content.rfind(b"PK\5\6") + 8, 2**16 - 1, 2**16 - 1, 9, 2**32 - 1
    )
    (tmp_path / "replicates.npz").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_rows(tmp_path / "replicates.npz")


@pytest.mark.parametrize("cut", [10, 200, 700])
def test_a_directory_that_is_cut_or_changed(tmp_path: Path, cut: int) -> None:
    """Whatever byte of it is missing, it is an error and not fewer arrays."""
    whole = archive(*((f"{number}.npy", saved(np.ones(4))) for number in range(9)))
    for content in (whole[:-cut], whole[:-cut] + b"PK" + whole[-cut + 2 :]):
        (tmp_path / "replicates.npz").write_bytes(content)
        try:
            assert len(read_rows(tmp_path / "replicates.npz")) == 9
        except ValueError:
            continue


def archive(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def saved(values) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip file"),
        (archive(("a.npy", saved(np.ones((2, 2))))), "a row of numbers is expected"),
        (archive(("a.npy", saved(np.ones(0)))), "a row of numbers is expected"),
        (archive(("a.npy", saved(np.array([{}, []], dtype=object)))), "a row of numbers"),
        (archive(("a.npy", saved(np.array(["x"])))), "a row of numbers"),
        (archive(("a.npy", b"no array at all")), "magic string"),
        (archive(("a.npy", saved(np.ones(9))[:-3])), "buffer is smaller|offset"),
        (archive(("bomb.npy", bytes(2**24))), "not a short row"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Objects are never unpickled, and nothing large is unpacked."""
    (tmp_path / "replicates.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "replicates.npz")


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """The archive's own checksums are checked."""
    path = tmp_path / "replicates.npz"
    np.savez(path, row=np.arange(200.0))
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"row\.npy: damaged"):
        read_rows(path)
