"""Replicates in both layouts: the same numbers, and no trust in what is handed in."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medtransfer.core.errors import InputError
from medtransfer.specs.replicates import read_rows, write_rows
from tests.conftest import ROOT
from tests.helpers.replicates import load_arrays

GOLDEN = ROOT / "tests" / "golden" / "replicates"


@pytest.mark.parametrize("layout", ["arrays", "matrix"])
def test_golden_files(layout: str) -> None:
    """A file of either layout gives the numbers that it was made from, to the last bit."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    rows = read_rows(GOLDEN / f"{layout}.npz")
    assert rows.keys() == expected.keys()
    for key, values in expected.items():
        assert rows[key].dtype == np.float32
        np.testing.assert_array_equal(rows[key], np.array(values, np.float32))


def test_a_written_file_is_the_golden_one(tmp_path: Path) -> None:
    """Whatever the order of the rows: the same bytes on every machine."""
    rows = read_rows(GOLDEN / "arrays.npz")
    for name, order in (("a", list(rows)), ("b", list(reversed(rows)))):
        write_rows(tmp_path / name, {key: rows[key] for key in order})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with zipfile.ZipFile(tmp_path / "a") as own, zipfile.ZipFile(GOLDEN / "matrix.npz") as golden:
        assert own.namelist() == golden.namelist() == ["values.npy", "keys.npy"]
        assert all(own.read(name) == golden.read(name) for name in own.namelist())
        assert own.getinfo("values.npy").compress_type == zipfile.ZIP_STORED
    arrays = load_arrays(tmp_path / "a")  # by numpy alone
    assert all(np.array_equal(arrays[key], rows[key], equal_nan=True) for key in rows)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_same_as_numpy(tmp_path: Path, save) -> None:
    """An array for each row: stored or compressed, of either precision, NaN included."""
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


@pytest.mark.parametrize("layout", ["arrays", "matrix"])
def test_only_what_ends_so(tmp_path: Path, layout: str) -> None:
    """A suffix chooses rows by the end of their keys."""
    rows = {name: np.ones(3, "f4") for name in ("a/in_domain", "a/x", "a/not_in_domain", "b/x")}
    if layout == "arrays":
        np.savez(tmp_path / "replicates.npz", **rows)
    else:
        write_rows(tmp_path / "replicates.npz", rows)
    assert list(read_rows(tmp_path / "replicates.npz", suffix="/x")) == ["a/x", "b/x"]


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
    with pytest.raises(InputError, match=r"replicates\.npz: cannot be read, damaged"):
        read_rows(tmp_path / "replicates.npz")


@pytest.mark.parametrize("cut", [10, 200, 700])
def test_a_directory_that_is_cut_or_changed(tmp_path: Path, cut: int) -> None:
    """Whatever byte of it is missing, it is an error and not fewer arrays."""
    whole = archive(*((f"{number}.npy", saved(np.ones(4))) for number in range(9)))
    for content in (whole[:-cut], whole[:-cut] + b"PK" + whole[-cut + 2 :]):
        (tmp_path / "replicates.npz").write_bytes(content)
        try:
            assert len(read_rows(tmp_path / "replicates.npz")) == 9
        except InputError:
            continue


def archive(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def saved(values, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def matrix(keys, values) -> bytes:
    return archive(("keys.npy", saved(keys)), ("values.npy", saved(values)))


ROWS = np.ones((2, 3), "f4")
OBJECTS = np.array([{}, []], dtype=object)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a zip file"),
        (archive(("a.npy", saved(np.ones((2, 2))))), "a row of numbers is expected"),
        (archive(("a.npy", saved(np.ones(0)))), "a row of numbers is expected"),
        (archive(("a.npy", saved(OBJECTS))), "a: holds pickled Python objects"),
        (archive(("a.npy", saved(np.array(["x"])))), "a row of numbers"),
        (archive(("a.npy", b"no array at all")), "magic string"),
        (archive(("a.npy", saved(np.ones(9))[:-3])), "needs more bytes than the file has"),
        (archive(("a.npy", saved(np.ones(9)) + b"more")), "not the bytes of shape"),
        (archive(("bomb.npy", saved(np.zeros(2**21)))), "is larger than 1,048,576 bytes"),
        (matrix(np.array(["a", "b"]), ROWS[0]), r"values: float32 of shape \(3,\)"),
        (matrix(np.array(["a", "b"]), ROWS.astype("f8")), "values: float64 of shape"),
        (matrix(np.array(["a", "b"]), ROWS[:, :0]), "one text for each row of numbers"),
        (matrix(np.array(["a"]), ROWS), r"keys: <U1 of shape \(1,\); 2 is expected"),
        (matrix(np.arange(2), ROWS), "one text for each row of numbers is expected"),
        (matrix(OBJECTS, ROWS), "keys: holds pickled Python objects"),
        (matrix(np.array(["a", "b"]), OBJECTS), "values: holds pickled Python objects"),
        (archive(("keys.npy", b""), ("values.npy", saved(ROWS))), "keys: cannot be read, damaged"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Objects are never unpickled, and nothing large is unpacked."""
    (tmp_path / "replicates.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"replicates\.npz: .*{message}"):
        read_rows(tmp_path / "replicates.npz")


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """The archive's own checksums are checked, in both layouts."""
    path = tmp_path / "replicates.npz"
    np.savez(path, row=np.arange(200.0))
    arrays = path.read_bytes()
    write_rows(path, {"row": np.arange(200, dtype="f4")})
    for name, content in (("row", arrays), ("values", path.read_bytes())):
        changed = bytearray(content)
        changed[600] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"npz: {name}: cannot be read, damaged: Bad CRC"):
            read_rows(path)
