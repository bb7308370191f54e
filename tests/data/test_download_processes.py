"""Downloads by several processes, and disks that are full."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medtransfer.data.files.download import obtain
from medtransfer.data.files.remote import RemoteFile
from tests.helpers.downloads import BODY, refusal
from tests.helpers.server import Published, Server

pytestmark = pytest.mark.usefixtures("surroundings")
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
                "warn a.npz: another process is downloading it; waiting\n"
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
    assert "to resume" in out and part.stat().st_size == room
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
