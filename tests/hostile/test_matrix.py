"""A submission whose replicates are one matrix: the same verdicts as with an array for each row."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.specs.replicates import FILE, read_rows, write_rows
from tests.conftest import ROOT, Bench
from tests.helpers.hostile import GIBIBYTE, bomb, refuse

SHIPPED = ROOT / "submissions" / "hog"
FIRST = sorted(read_rows(SHIPPED / FILE))[0]


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """A copy of a committed submission, in the newer layout."""
    folder = tmp_path / "submissions" / "hog"
    shutil.copytree(SHIPPED, folder)
    write_rows(folder / FILE, read_rows(folder / FILE))
    return folder


def test_the_layout_changes_nothing(submission: Path, tmp_path: Path, bench: Bench) -> None:
    """It is valid, and its board has the same bytes; what was verified were other bytes."""
    assert bench("validate", submission).code == 0
    for layout, source in (("matrix", submission), ("arrays", SHIPPED)):
        folder = tmp_path / layout / "hog"
        shutil.copytree(source, folder)
        (folder / "verification.json").unlink(missing_ok=True)
        command = ("leaderboard", "--submissions", folder.parent, "--out", tmp_path / f"{layout}-b")
        assert bench(*command).code == 0
    names = {path.name for path in (tmp_path / "arrays-b").glob("*.*")}
    assert "leaderboard.csv" in names
    for name in names - {"index.html"}:
        contents = [
            (tmp_path / f"{layout}-b" / name).read_bytes() for layout in ("matrix", "arrays")
        ]
        assert contents[0] == contents[1], name


def edit(folder: Path, **changes: Callable[[NDArray], NDArray]) -> None:
    with np.load(folder / FILE) as archive:
        arrays = dict(archive)
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez(folder / FILE, **arrays)


def twice(array: NDArray) -> NDArray:
    return np.concatenate([array[:1], array])


def add_key(keys: NDArray) -> NDArray:
    return np.concatenate([["x"], keys])


def nudge(values: NDArray) -> NDArray:
    return np.nextafter(values, np.float32(2))


def add_member(folder: Path) -> None:
    with zipfile.ZipFile(folder / FILE, "a") as archive:
        archive.writestr("mine.npy", b"")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: edit(f, keys=twice, values=twice), f"'{FIRST}': occurs 2 times; keep one"),
        (lambda f: edit(f, keys=add_key, values=twice), "'x': belongs to no record"),
        (lambda f: edit(f, keys=lambda k: k[1:], values=lambda v: v[1:]), f"{FIRST}: is missing"),
        (lambda f: edit(f, keys=lambda k: k[1:]), "keys: <U"),
        (lambda f: edit(f, values=lambda v: v.astype("f8")), "values: float64 of shape"),
        (add_member, "'mine': belongs to no record"),
        (lambda f: bomb(f / FILE, "values", size=GIBIBYTE), "is missing, but a record needs it"),
    ],
)
def test_what_validate_refuses(
    change: Callable[[Path], None], message: str, submission: Path, tmp_path: Path, bench: Bench
) -> None:
    """Rows of no record, rows that are missing or doubled, and arrays of another kind."""
    change(submission)
    refuse(bench("validate", submission), tmp_path / "harm", FILE, message)


def test_a_changed_number_is_found(submission: Path, tmp_path: Path, bench: Bench) -> None:
    """By the hash in its record; and a row of another length by its shape."""
    edit(submission, values=nudge)
    refuse(bench("verify", submission), tmp_path / "harm", "replicates.sha256", "one was changed")
    edit(submission, values=lambda values: values[:, :100].copy())
    refuse(bench("verify", submission), tmp_path / "harm", "(100,); float32 of 200 is expected")


@pytest.mark.parametrize("name", ["keys", "values"])
def test_bombs(name: str, submission: Path, tmp_path: Path, bench: Bench) -> None:
    """A member that unpacks to more than it should is refused before it is unpacked."""
    bomb(tmp_path / "bomb.npz", name, size=2 * GIBIBYTE)
    with zipfile.ZipFile(tmp_path / "bomb.npz") as source:
        member = source.getinfo(f"{name}.npy")
        assert member.file_size > 2 * GIBIBYTE
    other = "values" if name == "keys" else "keys"
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "a") as archive,
        zipfile.ZipFile(submission / FILE) as own,
    ):
        archive.writestr(f"{other}.npy", own.read(f"{other}.npy"))
    shutil.copy(tmp_path / "bomb.npz", submission / FILE)
    refuse(bench("validate", submission), tmp_path / "harm", FILE, f"{name}: ")
    command = ("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board")
    refuse(bench(*command), tmp_path / "harm", FILE, f"{name}: ")
