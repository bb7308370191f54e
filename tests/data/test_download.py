"""Downloads: every fault of a network or a disk ends in the right bytes or in one clear line."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import numpy as np
import pytest

from medtransfer.core.errors import InputError, RunError
from medtransfer.data.files import archives, http
from medtransfer.data.files.archives import extract
from medtransfer.data.files.download import RemoteFile, find, obtain
from tests.helpers.server import Published, Server, serve

BODY = np.random.default_rng(0).bytes(300_000)
WRONG = b"x" + BODY[1:]
MD5 = hashlib.md5(BODY).hexdigest()


class Shown:
    """What a front end was told."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.announced: list[str] = []
        self.advances: list[tuple[int, int | None]] = []
        self.warnings: list[str] = []
        self.finished = 0

    def announce(self, file: RemoteFile, url: str) -> None:
        """Keep the address."""
        self.announced.append(url)

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """Keep the sizes."""
        self.advances.append((done, total))

    def warn(self, message: str) -> None:
        """Keep the line, which is one."""
        assert "\n" not in message
        self.warnings.append(message)

    def finish(self, file: RemoteFile) -> None:
        """Count."""
        self.finished += 1


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of the test's own, no proxy, and no long waits."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("BENCH_MIRRORS", "BENCH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "BACK_OFF", 0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def published(server: Server) -> Published:
    """The file at its official address."""
    server.files["/official.npz"] = Published(BODY)
    return server.files["/official.npz"]


@pytest.fixture
def file(server: Server) -> RemoteFile:
    return RemoteFile("a.npz", f"{server.base}/official.npz", MD5, "CC BY 4.0", folder="corpus")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "downloads" / "corpus" / "a.npz"


def refusal(action: Callable[..., object], *arguments: object, **options: object) -> str:
    """The message with which something is refused: always one line."""
    with pytest.raises((InputError, RunError)) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


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
    assert shown.warnings == [f"{target}: the file is damaged; it is downloaded again"]


def test_a_changed_file_is_noticed_within_one_process(
    file: RemoteFile, published: Published
) -> None:
    """The checksum is remembered for one state of the file only."""
    path = obtain(file, None)
    path.write_bytes(WRONG)
    os.utime(path, ns=(1, 1))
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == [None, None]


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
        f"a.npz: connection lost at 0.0 MB{known}; going on in 0 s (2 of 6)"
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


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_failures_are_repeated(
    file: RemoteFile, published: Published, shown: Shown, status: int
) -> None:
    """A server that is busy twice is asked a third time."""
    published.answers = [(status, {})] * 2
    assert obtain(file, None, shown).read_bytes() == BODY
    assert [line[:10] for line in shown.warnings] == [f"a.npz: {status}"] * 2
    assert "(2 of 6)" in shown.warnings[0] and "(3 of 6)" in shown.warnings[1]


def test_retry_after_is_honoured_and_capped(
    file: RemoteFile, published: Published, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is the server's, as a number or a date, up to a limit; nonsense is ignored."""

    def seconds(retry_after: str) -> float:
        published.answers = [(429, {"Retry-After": retry_after})]
        start = time.monotonic()
        obtain(file, None, shown).unlink()
        return time.monotonic() - start

    distant = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.3)
    assert 0.3 <= seconds("3600") < 60 and 0.3 <= seconds(distant) < 60
    seconds("soon")
    assert shown.warnings[-1] == "a.npz: 429 Too Many Requests; going on in 0 s (2 of 6)"
    # Without the server's word the wait would now be 4.5 s or more.
    monkeypatch.setattr(http, "BACK_OFF", 9.0)
    monkeypatch.setattr(http, "LONGEST_WAIT", 9.0)
    assert seconds("0") < 4 and seconds("Tue, 01 Jul 2025 10:00:00 -0000") < 4


def test_a_stalled_connection_is_left(
    file: RemoteFile,
    server: Server,
    published: Published,
    shown: Shown,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that falls silent is asked again for the rest after the time limit."""
    monkeypatch.setattr(http, "TIMEOUT", 0.3)
    published.stall = 1000
    monkeypatch.setattr(shown, "warn", lambda line: (server.go_on.set(), Shown.warn(shown, line)))
    assert obtain(file, None, shown).read_bytes() == BODY
    assert published.ranges_asked == [None, "bytes=1000-"]
    assert "a.npz: no answer for 0 s at 0.0 MB of 0.3 MB" in shown.warnings[0]


def test_nobody_listens(tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection and an unknown host are tried again, then told in one line."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.npz"
        message = refusal(obtain, RemoteFile("a.npz", url, MD5, "CC0"), None, shown)
    assert f"{url}: Connection refused (6 attempts)" in message and len(shown.warnings) == 5
    url = "http://host.invalid/a.npz"
    monkeypatch.setenv("no_proxy", "*")
    message = refusal(obtain, RemoteFile("a.npz", url, MD5, "CC0"), None, shown)
    assert message.startswith(f"a.npz: could not be downloaded: {url}: ") and "6 att" in message


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.1/a", "file:///etc/hostname", "http://[", "/official.npz"]
)
def test_redirects_to_elsewhere_are_refused(
    file: RemoteFile, published: Published, location: str
) -> None:
    """A redirect leads to http or https, or nowhere; a loop ends."""
    published.answers = [(302, {"Location": location})] * 20
    message = refusal(obtain, file, None)
    assert ": its redirect " in message and len(published.ranges_asked) <= 10


def test_a_redirect_keeps_the_range(server: Server, file: RemoteFile, published: Published) -> None:
    """An ordinary redirect is followed, also when a download goes on."""
    server.files["/moved.npz"] = Published(BODY, cuts=[1000])
    published.answers = [(302, {"Location": "/moved.npz"})] * 2
    assert obtain(file, None).read_bytes() == BODY
    assert server.files["/moved.npz"].ranges_asked == [None, "bytes=1000-"]


def test_a_redirect_never_leaves_https() -> None:
    """From https only https is followed."""
    redirects, request = http._Redirects(), Request("https://a/x")

    def follow(url: str) -> Request | None:
        return redirects.redirect_request(request, io.BytesIO(), 302, "Found", {}, url)

    followed = follow("https://b/x")
    assert followed is not None and followed.full_url == "https://b/x"
    with pytest.raises(HTTPError) as caught:
        follow("http://b/x")
    caught.value.close()


@pytest.mark.parametrize(
    "url",
    ["ftp://a/x", "file:///etc/hostname", "a.npz", "http://a:b/", "http:///x", "http://a/x y"],
)
def test_other_addresses_are_refused(url: str) -> None:
    """Only well-formed addresses of http and https are asked."""
    message = refusal(obtain, RemoteFile("a.npz", url, MD5, "CC0"), None)
    assert message == f"a.npz: '{url}' is not an http or https address"


def test_mirrors_are_checked_before_any_request(
    file: RemoteFile, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped mirror is told, not passed over."""
    monkeypatch.setenv("BENCH_MIRRORS", f"{server.base} mirror/x")
    expected = "BENCH_MIRRORS: 'mirror/x' is not an http or https address"
    assert refusal(obtain, file, None) == expected and not server.paths


def test_offline_nothing_is_fetched(
    file: RemoteFile,
    published: Published,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line says which file, from where and where to; a file that is there still serves."""
    monkeypatch.setenv("BENCH_OFFLINE", "1")
    message = refusal(obtain, file, None)
    assert "BENCH_OFFLINE" in message
    assert message.endswith(f"download it from {file.url} (CC BY 4.0) to {target}")
    assert refusal(obtain, file, tmp_path).endswith(f" to {tmp_path / 'a.npz'}")
    assert not published.ranges_asked and not target.parent.exists()
    (tmp_path / "a.npz").write_bytes(BODY)
    assert obtain(file, tmp_path) == tmp_path / "a.npz"
    monkeypatch.setenv("BENCH_OFFLINE", "0")
    assert obtain(file, None) == target


CHILD = """
import resource, sys
from medtransfer.data.files import download, http
from medtransfer.core.errors import InputError, RunError
http.BACK_OFF = 0.001
class Told:
    def announce(self, file, url): print("announce", flush=True)
    def advance(self, file, done, total): pass
    def warn(self, message): print("warn", message, flush=True)
    def finish(self, file): print("finish", flush=True)
url, md5, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
file = download.RemoteFile("a.npz", url, md5, "CC BY 4.0", folder="corpus")
try:
    print("path", download.obtain(file, None, Told()), flush=True)
except (InputError, RunError) as error:
    print("error", error, flush=True)
heavy = {"torch", "pandas", "numpy", "requests"} & set(sys.modules)
assert not heavy, heavy
"""


def spawn(file: RemoteFile, *, limit: int = 0) -> subprocess.Popen[str]:
    """Obtain the file in a process of its own, where no file may grow beyond the limit."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, file.url, file.md5, str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_process_that_ended_is_resumed(
    server: Server, file: RemoteFile, published: Published, target: Path, end: signal.Signals
) -> None:
    """Every byte that had come stays, no lock is left, and the next process goes on."""
    published.stall = 100_000
    part = target.with_name("a.npz.part")
    with spawn(file) as child:
        wait_until(lambda: part.exists() and part.stat().st_size == 100_000)
        child.send_signal(end)
        child.communicate()
        assert child.returncode != 0
    server.go_on.set()
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == [None, "bytes=100000-"]


def test_two_processes_download_once(
    server: Server, file: RemoteFile, published: Published, target: Path
) -> None:
    """The second process says that it waits, and finds the file of the first."""
    published.stall = 1000
    with spawn(file) as first:
        wait_until(lambda: bool(published.ranges_asked))
        with spawn(file) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == (
                "warn a.npz: another process is downloading it; waiting for that one\n"
            )
            server.go_on.set()
            assert second.communicate() == (f"path {target}\n", "")
        assert first.communicate() == (f"announce\nfinish\npath {target}\n", "")
    assert published.ranges_asked == [None]


def test_a_full_disk_is_told_and_resumed(
    file: RemoteFile, published: Published, target: Path
) -> None:
    """The line says how much is missing; the same command goes on once there is room."""
    room = len(BODY) - 10  # so the last block is written in part
    with spawn(file, limit=room) as child:
        out, err = child.communicate()
    part = target.with_name("a.npz.part")
    assert not err and out.startswith(f"announce\nerror {part}: cannot be written: ")
    assert "goes on" in out and part.stat().st_size == room
    assert obtain(file, None).read_bytes() == BODY
    assert published.ranges_asked == [None, f"bytes={room}-"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_space_left(file: RemoteFile, published: Published, target: Path) -> None:
    """The system's own words and the bytes that are missing stand in the line."""
    target.parent.mkdir(parents=True)
    target.with_name("a.npz.part").symlink_to("/dev/full")
    message = refusal(obtain, file, None)
    assert "cannot be written: No space left on device; 0.3 MB more are needed" in message


def test_a_folder_that_cannot_be_written(
    file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that is a file is told in one line."""
    (tmp_path / "cache").write_text("")
    folder = tmp_path / "cache" / "downloads" / "corpus"
    assert refusal(obtain, file, None) == f"{folder}: cannot be written: Not a directory"


FORMATS = ["tar", "tar.gz", "tar.xz", "zip"]


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """Write an archive of the format that its name tells."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(zipfile.ZipInfo(name), content)
        return path
    with tarfile.open(path, f"w:{path.suffix.removeprefix('.').replace('tar', '')}") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pack_special(path: Path, *, kind: bytes, to: str) -> Path:
    """Write an archive with one link or device called ``odd``."""
    if path.suffix == ".zip":
        info = zipfile.ZipInfo("odd")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(info, to)
        return path
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("odd")
        member.type, member.linkname = kind, to
        tar.addfile(member)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_an_archive_is_unpacked_once(tmp_path: Path, format: str) -> None:
    """All members are there with their bytes; a folder that is there is left alone."""
    archive = pack(tmp_path / f"a.{format}", {"x/1.txt": b"one", "2.txt": b"two", "e.txt": b""})
    extract(archive, tmp_path / "out" / "corpus", at_most=6)
    found = {
        str(path.relative_to(tmp_path / "out" / "corpus")): path.read_bytes()
        for path in (tmp_path / "out" / "corpus").rglob("*")
        if path.is_file()
    }
    assert found == {"x/1.txt": b"one", "2.txt": b"two", "e.txt": b""}
    archive.unlink()
    extract(archive, tmp_path / "out" / "corpus", at_most=6)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["corpus", "corpus.lock"]


@pytest.mark.parametrize("format", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../out", "x/../../out", "/abs/out", "..\\out", "C:/out"])
def test_a_member_never_leaves_the_folder(tmp_path: Path, format: str, name: str) -> None:
    """Traversal and absolute names are refused, and nothing is left, not even good members."""
    archive = pack(tmp_path / f"a.{format}", {"good.txt": b"good", name: b"bad"})
    message = refusal(extract, archive, tmp_path / "deep" / "corpus", at_most=100)
    assert message == f"{archive}: refused at member {name!r}: its name leads out of the folder"
    assert {path.name for path in tmp_path.rglob("*")} == {archive.name, "deep", "corpus.lock"}


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("tar", tarfile.SYMTYPE),
        ("tar", tarfile.LNKTYPE),
        ("tar", tarfile.CHRTYPE),
        ("tar", tarfile.FIFOTYPE),
        ("zip", b""),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, format: str, kind: bytes) -> None:
    """Only files and folders are unpacked."""
    archive = pack_special(tmp_path / f"a.{format}", kind=kind, to="/etc/hostname")
    message = refusal(extract, archive, tmp_path / "corpus", at_most=100)
    assert "refused at member 'odd': a link or a device" in message
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_bombs_are_refused(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are counted over all members, and so are the members."""
    archive = pack(tmp_path / f"a.{format}", {"a": b"0" * 60, "b": b"0" * 60})
    message = refusal(extract, archive, tmp_path / "corpus", at_most=100)
    assert message == f"{archive}: refused at member 'b': more than 100 bytes unpacked"
    monkeypatch.setattr(archives, "MOST_MEMBERS", 1)
    message = refusal(extract, archive, tmp_path / "corpus", at_most=120)
    assert message == f"{archive}: refused at member 'b': more than 1 members"
    assert not (tmp_path / "corpus").exists() and not (tmp_path / "corpus.part").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_archives_are_one_line(tmp_path: Path, format: str) -> None:
    """What is cut or no archive at all ends in one line, and leaves no folder."""
    whole = pack(tmp_path / f"a.{format}", {"a": BODY[:5000], "b": BODY[5000:9000]}).read_bytes()
    archive = tmp_path / f"damaged.{format}"
    for content in (whole[:40], whole[:3000], b"", b"foreign" * 99):
        archive.write_bytes(content)
        assert refusal(extract, archive, tmp_path / "out", at_most=10_000).startswith(f"{archive}")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_byte_is_noticed(tmp_path: Path, format: str) -> None:
    """Wherever one byte is wrong: one line, or the right files where it carried no meaning."""
    text = BODY[:40_000].hex().encode()
    whole = pack(tmp_path / f"a.{format}", {"a": text, "b": BODY[:9000]}).read_bytes()
    archive = tmp_path / f"flipped.{format}"
    refused = 0
    for position in np.random.default_rng(1).integers(len(whole), size=40):
        flipped = bytearray(whole)
        flipped[position] ^= 255
        archive.write_bytes(flipped)
        into = tmp_path / f"out-{position}"
        try:
            extract(archive, into, at_most=100_000)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{archive}: ") and "\n" not in str(error)
        else:
            # A plain tar archive has no checksum of its contents; that is what the MD5 is for.
            assert format == "tar" or (into / "a").read_bytes() == text
    assert format == "tar" or refused > 30


def test_what_python_cannot_unpack_is_one_line(tmp_path: Path) -> None:
    """An encrypted member, and a name that no file can have."""
    zipped = pack(tmp_path / "a.zip", {"a": b"secret"})
    content = bytearray(zipped.read_bytes())
    for signature, flag in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.find(signature) + flag] |= 1
    zipped.write_bytes(content)
    assert "encrypted" in refusal(extract, zipped, tmp_path / "out", at_most=100)
    info = tarfile.TarInfo("a")
    info.pax_headers = {"path": "a\0b"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info)
    message = refusal(extract, tmp_path / "a.tar", tmp_path / "out", at_most=100)
    assert re.search("null (byte|character)", message), message


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    """A half-unpacked folder neither counts as unpacked nor leaves files in the new one."""
    (tmp_path / "corpus.part").mkdir()
    (tmp_path / "corpus.part" / "old").write_text("old")
    extract(pack(tmp_path / "a.zip", {"new": b"new"}), tmp_path / "corpus", at_most=3)
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["new"]
