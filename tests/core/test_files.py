"""Files and folders that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.core.files import leftovers, locked, replace, replacing, replacing_folder
from tests.helpers.kills import kill_at_each_step


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """Whenever its writer is killed; what is left beside it is listed."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = set()
    for _ in kill_at_each_step(lambda: replace(path, b"new")):
        seen.add(path.read_bytes())
        left = leftovers(path)
        assert {file.name for file in tmp_path.iterdir()} == {"file", *(f.name for f in left)}
        for file in left:
            file.unlink()
    assert seen == {b"old"} and path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    """Whenever its writer is killed; the next one under the lock removes what is left."""
    path = tmp_path / "folder"

    def fill() -> None:
        with locked(path), replacing_folder(path) as folder:
            (folder / "a").write_bytes(b"a")
            (folder / "b").write_bytes(b"b")

    for _ in kill_at_each_step(fill):
        assert not path.exists()
    assert sorted(file.name for file in path.iterdir()) == ["a", "b"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "folder.lock"]
    with replacing_folder(path) as folder:
        (folder / "c").write_bytes(b"c")
    assert [file.name for file in path.iterdir()] == ["c"]


def test_errors_leave_the_old_one(tmp_path: Path) -> None:
    """A writer that fails changes nothing and leaves nothing."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert (tmp_path / "file").read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "folder", "old"]
