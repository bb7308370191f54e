"""A file that is published on the web, and what a front end shows while it is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["RemoteFile", "Progress", "SILENT"]


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


class Progress(Protocol):
    """What a front end implements to show how data are fetched and decoded."""

    def announce(self, file: RemoteFile, url: str) -> None:
        """Before the first byte: the name, size and licence, and the address that is asked."""

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """So many bytes are here, of ``total`` where the server said it."""

    def warn(self, message: str) -> None:
        """Something went wrong that needs no action yet: one line."""

    def finish(self, file: RemoteFile) -> None:
        """The file is complete and its checksum is right."""

    def decode(self, what: str, size: int) -> None:
        """A split of so many bytes is decoded now."""


class _Silent:
    """Show nothing."""

    def announce(self, file: RemoteFile, url: str) -> None:
        """Nothing."""

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def finish(self, file: RemoteFile) -> None:
        """Nothing."""

    def decode(self, what: str, size: int) -> None:
        """Nothing."""


SILENT: Progress = _Silent()
