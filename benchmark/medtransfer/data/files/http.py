"""Download one file from one address over HTTP, resuming interrupted attempts.

A note beside the partial file holds the version it belongs to: the server's ETag or date. Only
bytes of that version are appended; where the server has another one, the download starts over.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from ssl import SSLCertVerificationError
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from medtransfer.core.errors import reason, unwritable
from medtransfer.core.version import __version__
from medtransfer.data.files.remote import Progress, RemoteFile

ATTEMPTS = 6  # counted from the last attempt that brought new bytes
BACK_OFF = 1.0  # seconds before the second attempt, doubled before each further one
LONGEST_WAIT = 120.0  # seconds, whatever Retry-After says
TIMEOUT = 30.0  # seconds without a byte

_BLOCK = 1 << 20
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
# The checksum is that of the uncompressed file, so the server must not compress it.
_HEADERS = {"User-Agent": f"medtransfer/{__version__}", "Accept-Encoding": "identity"}


class Unavailable(Exception):
    """Permanent failure of one address; another one may have the file."""


class _Interrupted(Exception):
    """Temporary failure; another attempt may succeed, after ``wait`` seconds where known."""

    def __init__(self, message: str, *, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def can_fetch(url: str) -> bool:
    """Return whether this is a well-formed http or https address."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked only when it is read
    except ValueError:
        return False
    printable = url.isascii() and url.isprintable() and " " not in url
    return printable and parts.scheme in ("http", "https") and bool(parts.hostname)


def fetch(file: RemoteFile, url: str, part: Path, progress: Progress) -> None:
    """Complete the partial file ``part``; the caller verifies its checksum.

    Args:
        file: The file, for messages.
        url: An address that ``can_fetch`` accepts.
        part: The partial file, which may not exist yet.
        progress: Shows the bytes and the attempts.

    Raises:
        Unavailable: When the address refuses, or fails too often in a row.
        InputError: When ``part`` cannot be written; its content is kept.
        RunError: When the disk is full; the content of ``part`` is kept.
    """
    # Unseeded, so that machines which lost a server at the same time do not retry in step.
    jitter = random.Random()
    furthest, failures = _size(part), 0
    while True:
        try:
            return _attempt(file, url, part, progress)
        except _Interrupted as error:
            if _size(part) > furthest:
                furthest, failures = _size(part), 0
            failures += 1
            if failures == ATTEMPTS:
                raise Unavailable(f"{error} ({ATTEMPTS} attempts)") from None
            back_off = BACK_OFF * 2 ** (failures - 1) * jitter.uniform(0.5, 1.5)
            wait = min(back_off if error.wait is None else error.wait, LONGEST_WAIT)
            progress.warn(
                f"{file.name}: {error}; retrying in {wait:.0f} s ({failures + 1} of {ATTEMPTS})"
            )
            time.sleep(wait)


def drop(part: Path) -> None:
    """Remove a partial file and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _attempt(file: RemoteFile, url: str, part: Path, progress: Progress) -> None:
    """Request the missing bytes once, and append them."""
    version = _note(part).read_text(encoding="utf-8") if _note(part).exists() else ""
    here = _size(part) if version else 0
    request = Request(url, headers=_HEADERS)
    if here:
        request.add_header("Range", f"bytes={here}-")
        request.add_header("If-Range", version)
    try:
        response = _open(request)
    except HTTPError as error:
        with error:
            if not here or error.code != 416:
                raise _refusal(error) from None
            if error.headers["Content-Range"] == f"bytes */{here}":
                return  # complete already: an earlier call ended before the check
            drop(part)
            raise _Interrupted("the server's file has another size", wait=0) from None
    with response:
        resumed = bool(here) and response.status == 206
        if not resumed and response.status != 200:
            raise Unavailable(f"unexpected status {response.status}")
        if resumed and not _continues(response.headers, version, here):
            drop(part)
            raise _Interrupted("the server's file has changed", wait=0)
        _receive(file, response, part, progress, done=here if resumed else 0)


def _receive(
    file: RemoteFile, response: HTTPResponse, part: Path, progress: Progress, *, done: int
) -> None:
    """Append the body after the first ``done`` bytes, up to its stated length."""
    total = None if response.length is None else done + response.length
    expected = total or file.at_most
    with _writing(part, expected and expected - done):
        if not done:
            # Old bytes are removed first; they would count as bytes of the new version.
            part.write_bytes(b"")
            _note(part).write_text(_version(response.headers), encoding="utf-8")
        target = part.open("ab", buffering=0)
    with target:
        while total is None or done < total:
            try:
                block = response.read1(_BLOCK)
            except (OSError, HTTPException) as error:
                raise _Interrupted(f"{_describe(error)} at {_megabytes(done, total)}") from None
            if not block and total is None:
                return
            if not block:
                raise _Interrupted(f"connection lost at {_megabytes(done, total)}")
            with _writing(part, expected and expected - done):
                _write(target, block)
            done += len(block)
            progress.advance(file, done, total)


def _write(target: IO[bytes], block: bytes) -> None:
    """Write all of a block; a nearly full disk takes fewer bytes than requested."""
    left = memoryview(block)
    while left:
        left = left[target.write(left) :]


@contextmanager
def _writing(part: Path, missing: int | None) -> Iterator[None]:
    """Turn write failures into errors that say how much space is missing."""
    try:
        yield
    except OSError as error:
        needed = f"; {_megabytes(missing)} more are needed" if missing and missing > 0 else ""
        then = "partial file kept: free some space and run the same command again to resume"
        raise unwritable(f"{part}:", error, then=f"{needed}; {then}") from None


class _Redirects(HTTPRedirectHandler):
    """Redirect handler that refuses other schemes and a change from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        schemes = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if not can_fetch(newurl) or schemes == ("https", "http"):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: Request) -> HTTPResponse:
    """Send the request.

    Raises:
        HTTPError: For any status but success.
    """
    try:
        response: HTTPResponse = build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return response
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        cause = getattr(error, "reason", error)  # urllib wraps errors raised while connecting
        if isinstance(cause, SSLCertVerificationError):
            raise Unavailable(f"its certificate is refused: {cause.verify_message}") from None
        raise _Interrupted(_describe(cause)) from None
    except ValueError as error:
        raise Unavailable(f"its redirect is malformed: {error}") from None


def _refusal(error: HTTPError) -> Unavailable | _Interrupted:
    """Convert an HTTP error status to a temporary or permanent failure."""
    status = f"{error.code} {error.reason}".strip()
    if error.code in _TEMPORARY:
        return _Interrupted(status, wait=_delay(error.headers["Retry-After"]))
    if 300 <= error.code < 400:
        location = " ".join(str(error.headers["Location"]).split())
        return Unavailable(f"its redirect to {location} is not followed")
    return Unavailable(status)


def _delay(retry_after: str | None) -> float | None:
    """Parse ``Retry-After``, a number or a date (RFC 9110, 10.2.3), to seconds to wait."""
    if retry_after is None or retry_after.isdecimal():
        return float(retry_after) if retry_after else None
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _version(headers: Message) -> str:
    """Return the validator for ``If-Range``, which takes no weak ETag (RFC 9110, 13.1.5)."""
    etag = headers["ETag"] or ""
    return etag if etag.startswith('"') else headers["Last-Modified"] or ""


def _continues(headers: Message, version: str, here: int) -> bool:
    """Return whether a part continues the partial file and is of the same version."""
    start = re.match(r"bytes (\d+)-", headers["Content-Range"] or "")
    return start is not None and int(start[1]) == here and _version(headers) == version


def _describe(error: Exception) -> str:
    """Describe a failed connection in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer for {TIMEOUT:.0f} s"
    if isinstance(error, HTTPException):
        return "connection lost"
    return reason(error)


def _megabytes(*sizes: int | None) -> str:
    """Format sizes for people: ``12.0 MB of 40.0 MB``."""
    return " of ".join(f"{size / 1e6:,.1f} MB" for size in sizes if size is not None)
