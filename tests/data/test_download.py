"""Downloads into the cache: data folders, checks and mirrors."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from medtransfer.data.files.download import find, obtain
from medtransfer.data.files.remote import RemoteFile
from tests.helpers.downloads import BODY, MD5, WRONG, Shown, refusal
from tests.helpers.server import Published, Server

pytestmark = pytest.mark.usefixtures("surroundings")


def test_a_file_is_downloaded_once(
    file: RemoteFile, published: Published, target: Path, shown: Shown
) -> None:
    """The right bytes come, what is shown is true, and the second call asks no server."""
    assert obtain(file, None, shown) == obtain(file, None, shown) == target == find(file, None)
    assert target.read_bytes() == BODY
    assert published.ranges_asked == [None]
    assert shown.announced == [file.url] and shown.finished == 1 and not shown.warnings
    assert shown.advances[-1] == (len(BODY), len(BODY))
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.npz", "a.npz.lock"]


def test_into_names_the_folder_of_the_download(
    file: RemoteFile, published: Published, tmp_path: Path
) -> None:
    """A file goes where it was asked to go, and is found there by the next call."""
    into = tmp_path / "new" / "folder"
    assert obtain(file, None, into=into) == obtain(file, None, into=into) == into / "a.npz"
    assert published.ranges_asked == [None] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["a.npz", "corpus/a.npz"])
def test_the_data_folder_comes_first(
    file: RemoteFile, server: Server, tmp_path: Path, place: str
) -> None:
    """A file in --data, or in its sub-folder, is used and nothing is asked."""
    path = tmp_path / "data" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert obtain(file, tmp_path / "data") == path == find(file, tmp_path / "data")
    assert not server.paths


def test_a_data_folder_that_is_none(file: RemoteFile, tmp_path: Path) -> None:
    """A --data that is no folder is an error, not a reason to download."""
    path = tmp_path / "data"
    assert refusal(find, file, path) == f"--data: {path} is not a folder"


def test_a_damaged_file_of_the_user_is_never_touched(
    file: RemoteFile, published: Published, tmp_path: Path
) -> None:
    """The error names the file and both checksums, and the file stays."""
    path = tmp_path / "a.npz"
    path.write_bytes(WRONG)
    message = refusal(obtain, file, tmp_path)
    assert message.startswith(f"{path}: MD5 is {hashlib.md5(WRONG).hexdigest()}, expected {MD5}")
    assert path.read_bytes() == WRONG and not published.ranges_asked
    assert str(path) in refusal(obtain, file, None, into=tmp_path)
    assert path.read_bytes() == WRONG


def test_a_damaged_file_of_the_cache_is_fetched_again(
    file: RemoteFile, published: Published, target: Path, shown: Shown
) -> None:
    """It was downloaded by us, so it is removed and replaced, and that is said."""
    target.parent.mkdir(parents=True)
    target.write_bytes(WRONG)
    published.answers = [(404, {})]
    refusal(obtain, file, None, shown)
    assert not target.exists()
    assert obtain(file, None, shown).read_bytes() == BODY
    assert shown.warnings == [f"{target}: damaged; downloading it again"]


def test_a_changed_file_is_noticed_within_one_process(
    file: RemoteFile, published: Published
) -> None:
    """The checksum is remembered for one state of the file only."""
    path = obtain(file, None)
    path.write_bytes(WRONG)
    os.utime(path, ns=(1, 1))
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == [None, None]


def test_wrong_bytes_are_dropped(file: RemoteFile, published: Published, target: Path) -> None:
    """They are asked for once, both checksums are named, and the next run starts afresh."""
    published.body = WRONG
    wrong = f"wrong bytes (MD5 {hashlib.md5(WRONG).hexdigest()}, expected {MD5})"
    assert f"{file.url}: {wrong}" in refusal(obtain, file, None)
    assert published.ranges_asked == [None]
    assert [path.name for path in target.parent.iterdir()] == ["a.npz.lock"]


def test_mirrors_come_first_and_in_order(
    file: RemoteFile,
    server: Server,
    published: Published,
    shown: Shown,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing file and wrong bytes send on to the next address, and each is asked once."""
    monkeypatch.setenv("BENCH_MIRRORS", f"{server.base}/one/, {server.base}/two\n")
    server.files["/two/corpus/a.npz"] = Published(WRONG)
    assert obtain(file, None, shown).read_bytes() == BODY
    assert server.paths == ["/one/corpus/a.npz", "/two/corpus/a.npz", "/official.npz"]
    assert shown.announced == [f"{server.base}/one/corpus/a.npz"]
    assert "404 Not Found; trying" in shown.warnings[0] and "wrong bytes" in shown.warnings[1]


def test_a_working_mirror_spares_the_official_address(
    file: RemoteFile, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a mirror has the file, in a sub-folder or in none, nobody else is asked."""
    monkeypatch.setenv("BENCH_MIRRORS", f"{server.base}/m")
    server.files["/m/corpus/a.npz"] = server.files["/m/a.npz"] = Published(BODY)
    obtain(file, None)
    obtain(dataclasses.replace(file, folder=""), None)
    assert server.paths == ["/m/corpus/a.npz", "/m/a.npz"]


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400])
def test_refusals_are_not_repeated(file: RemoteFile, published: Published, status: int) -> None:
    """What another attempt cannot change is asked once, and the line has the status."""
    published.answers = [(status, {})]
    assert f"{file.url}: {status} " in refusal(obtain, file, None)
    assert len(published.ranges_asked) == 1


@pytest.mark.parametrize("status", [204, 206])
def test_other_successes_are_none(file: RemoteFile, published: Published, status: int) -> None:
    """No content, or a part that nobody asked for, is not the file."""
    published.answers = [(status, {})]
    assert f"{file.url}: unexpected status {status}" in refusal(obtain, file, None)
