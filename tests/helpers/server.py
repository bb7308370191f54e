"""A real HTTP server on this machine, whose faults are switched on file by file."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Published", "Server", "serve"]


@dataclass
class Published:
    """A file on the server, and what goes wrong with it.

    Attributes:
        body: The right bytes.
        etag: Its version; ``None`` sends none.
        modified: Its date; ``None`` sends none.
        ranges: Whether the server knows of ranges.
        versions: Whether it heeds ``If-Range``.
        answers: (status, headers) of the first requests, in turn, before any body.
        cuts: Bytes after which the next responses are cut, in turn.
        stall: Bytes after which a response waits until the server's ``go_on`` is set.
        length: A wrong Content-Length.
        chunked: Whether the length is left out and the body comes in chunks.
        ranges_asked: Of every request so far, its ``Range``.
        sent: Bytes of bodies so far.
    """

    body: bytes
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    versions: bool = True
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    stall: int | None = None
    length: int | None = None
    chunked: bool = False
    ranges_asked: list[str | None] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer as the file's faults say."""
        self.close_connection = True
        self.server.paths.append(self.path)
        file = self.server.files.get(self.path)
        if file is None:
            return self._answer(404, {})
        wanted = self.headers["Range"]
        file.ranges_asked.append(wanted)
        if file.answers:
            return self._answer(*file.answers.pop(0))
        start, size = 0, len(file.body)
        version = file.etag or file.modified
        current = not file.versions or self.headers["If-Range"] in (None, version)
        if file.ranges and wanted and current:
            start = int(re.findall(r"\d+", wanted)[0])
            if start >= size:
                return self._answer(416, {"Content-Range": f"bytes */{size}"})
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in (("ETag", file.etag), ("Last-Modified", file.modified)):
            if value is not None:
                self.send_header(name, value)
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str((file.length or size) - start))
        self.end_headers()
        end = start + file.cuts.pop(0) if file.cuts else size
        if file.stall is not None and file.stall < end:
            self._send(file, file.body[start : file.stall])
            start = max(start, file.stall)
            self.server.go_on.wait()
        self._send(file, file.body[start:end])
        if file.chunked and end >= size:
            self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, file: Published, content: bytes) -> None:
        file.sent += len(content)  # before the client can have them
        try:
            head, tail = (f"{len(content):x}\r\n".encode(), b"\r\n") if file.chunked else (b"", b"")
            self.wfile.write(head + content + tail)
        except OSError:
            pass  # the client is gone

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


class Server(ThreadingHTTPServer):
    """The files by path, and the paths that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listen at any free port."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Published] = {}
        self.paths: list[str] = []
        self.go_on = threading.Event()

    @property
    def base(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server in a thread of its own."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()
