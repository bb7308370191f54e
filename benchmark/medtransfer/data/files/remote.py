"""Files published on the web, and progress callbacks of downloads and decoding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Attributes:
        name: File name under which it is kept.
        url: The official address.
        md5: The published checksum, 32 hexadecimal digits.
        licence: Shown before the first download.
        at_most: Bytes, the size or an upper bound, for people.
        folder: Sub-folder of the download folder, such as ``medmnist``.
    """

    name: str
    url: str
    md5: str
    licence: str
    at_most: int | None = None
    folder: str = ""


class Progress:
    """Progress callbacks; no-ops by default, overridden by the CLI."""

    def announce(self, file: RemoteFile, url: str) -> None:
        """Start a download from ``url``."""

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """Report the bytes received so far; ``total`` is ``None`` where the server gave none."""

    def warn(self, message: str) -> None:
        """Show a note that needs no action yet: one line."""

    def finish(self, file: RemoteFile) -> None:
        """End a download whose checksum was verified."""

    def decode(self, what: str, size: int) -> None:
        """Start to decode a split of ``size`` bytes."""


SILENT = Progress()
