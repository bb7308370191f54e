"""Downloads that were cut, and what is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.data.files.download import find, obtain
from medtransfer.data.files.remote import RemoteFile
from tests.helpers.downloads import BODY, WRONG, Shown, refusal
from tests.helpers.server import Published, Server

pytestmark = pytest.mark.usefixtures("surroundings")


@pytest.mark.parametrize("chunked", [False, True])
def test_cuts_are_resumed(
    file: RemoteFile, published: Published, shown: Shown, chunked: bool
) -> None:
    """More cuts than attempts, each with progress: no byte is asked for twice."""
    published.chunked = chunked
    published.cuts = [30_000] * 8
    assert obtain(file, None, shown).read_bytes() == BODY
    asked = [f"bytes={30_000 * cut}-" for cut in range(1, 9)]
    assert published.ranges_asked == [None, *asked]
    assert published.sent == len(BODY)
    known = "" if chunked else " of 0.3 MB"
    assert shown.warnings[0].startswith(
        f"a.npz: connection lost at 0.0 MB{known}; retrying in 0 s (2 of 6)"
    )
    assert all("(2 of 6)" in line for line in shown.warnings) and len(shown.warnings) == 8


def test_a_server_without_progress_is_left(
    file: RemoteFile, published: Published, shown: Shown, target: Path
) -> None:
    """Six attempts without a new byte end in an error; what came stays for the next run."""
    published.cuts = [1000] + [0] * 99
    message = refusal(obtain, file, None, shown)
    assert f"{file.url}: connection lost at 0.0 MB of 0.3 MB (6 attempts)" in message
    assert len(published.ranges_asked) == 6 and f"put the file at {target}" in message
    published.cuts = []
    obtain(file, None)
    assert published.ranges_asked[-1] == "bytes=1000-"


@pytest.mark.parametrize("fault", ["no ranges", "no version", "weak version"])
def test_what_cannot_be_resumed_starts_over(
    file: RemoteFile, published: Published, fault: str
) -> None:
    """Without ranges, or a version that ranges can be trusted with, the whole file comes."""
    published.ranges = fault != "no ranges"
    published.etag = {"no version": None, "weak version": 'W/"1"'}.get(fault, '"1"')
    published.cuts = [1000, 2000]
    assert obtain(file, None).read_bytes() == BODY
    assert published.sent == 3000 + len(BODY)
    assert (set(published.ranges_asked) == {None}) == (fault != "no ranges")


def test_a_date_serves_as_version(file: RemoteFile, published: Published) -> None:
    """A server that sends a date and no ETag is resumed too."""
    published.etag, published.modified = None, "Tue, 01 Jul 2025 10:00:00 GMT"
    published.cuts = [1000]
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == [None, "bytes=1000-"]


@pytest.mark.parametrize("heeded", [True, False])
def test_versions_are_never_glued_together(
    file: RemoteFile, published: Published, heeded: bool
) -> None:
    """A file that changed after a cut starts over, even where the server ignores If-Range."""
    published.body, published.cuts = WRONG, [1000] + [0] * 6
    refusal(obtain, file, None)
    published.body, published.etag, published.cuts = BODY, '"2"', []
    published.versions, published.ranges_asked = heeded, []
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == ["bytes=1000-"] + [None] * (not heeded)


def test_a_part_from_elsewhere_is_refused(
    file: RemoteFile, published: Published, target: Path
) -> None:
    """A part that does not begin where the partial file ends is not appended to it."""
    target.parent.mkdir(parents=True)
    target.with_name("a.npz.part").write_bytes(BODY[:1000])
    target.with_name("a.npz.part.version").write_text('"1"')
    headers = {"Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}", "ETag": '"1"'}
    published.answers = [(206, headers)]
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == ["bytes=1000-", None]


def test_a_mirror_goes_on_where_another_was_cut(
    file: RemoteFile, server: Server, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers with the same version share a partial file."""
    monkeypatch.setenv("BENCH_MIRRORS", f"{server.base}/mirror")
    server.files["/mirror/corpus/a.npz"] = Published(BODY, cuts=[1000] + [0] * 99)
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == ["bytes=1000-"]


def test_a_complete_partial_file_is_used(
    file: RemoteFile, published: Published, target: Path
) -> None:
    """Killed between the last byte and the renaming: nothing is sent again."""
    target.parent.mkdir(parents=True)
    target.with_name("a.npz.part").write_bytes(BODY)
    target.with_name("a.npz.part.version").write_text('"1"')
    assert obtain(file, None).read_bytes() == BODY
    assert published.sent == 0 and published.ranges_asked == [f"bytes={len(BODY)}-"]


def test_a_partial_file_that_is_too_long_starts_over(
    file: RemoteFile, published: Published, target: Path
) -> None:
    """A range beyond the end (416) of a file of another size drops what was there."""
    target.parent.mkdir(parents=True)
    target.with_name("a.npz.part").write_bytes(BODY + b"more")
    target.with_name("a.npz.part.version").write_text('"1"')
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == [f"bytes={len(BODY) + 4}-", None]


@pytest.mark.parametrize("length", [1000, len(BODY) + 1000])
def test_a_wrong_content_length_is_no_success(
    file: RemoteFile, published: Published, length: int
) -> None:
    """A body that is longer or shorter than announced is never taken for the file."""
    published.length, published.ranges = length, False
    message = refusal(obtain, file, None)
    expected = "wrong bytes (MD5" if length < len(BODY) else "connection lost at 0.3 MB of 0.3 MB"
    assert expected in message
    assert find(file, None) is None
