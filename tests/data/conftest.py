"""A local server with files to download, and volumes of the Decathlon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from medtransfer.data.files import http
from medtransfer.data.files.remote import RemoteFile
from tests.helpers.decathlon import write_task
from tests.helpers.downloads import BODY, MD5, Shown
from tests.helpers.server import Published, Server, serve


@pytest.fixture
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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five volumes in the official layout: three to train on, one each for the other splits."""
    return write_task(tmp_path / "data")
