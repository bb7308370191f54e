"""Answers of servers: temporary failures, redirects and addresses."""

from __future__ import annotations

import io
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from medtransfer.data.files import http
from medtransfer.data.files.download import obtain
from medtransfer.data.files.remote import RemoteFile
from tests.helpers.downloads import BODY, MD5, Shown, refusal
from tests.helpers.server import Published, Server

pytestmark = pytest.mark.usefixtures("surroundings")


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
    assert shown.warnings[-1] == "a.npz: 429 Too Many Requests; retrying in 0 s (2 of 6)"
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
