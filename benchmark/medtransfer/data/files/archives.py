"""Unpack published archives without trusting them."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medtransfer.core.errors import DISK, InputError, reason, unwritable
from medtransfer.core.files import locked, replacing_folder

MOST_MEMBERS = 2_000_000

# Raised by the standard library for a damaged or encrypted archive, an unknown compression, an
# invalid file name, or a full disk.
_FAILURES = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
# Python 3.11.4 and later filter what a member may set; before that, it sets nothing: no owner and
# no mode. Names, links and devices are checked here in any case.
_FILTER: dict[str, Any] = (
    {"filter": "data"} if hasattr(tarfile, "data_filter") else {"set_attrs": False}
)


def extract(archive: Path, into: Path, *, at_most: int) -> None:
    """Unpack a tar (plain, gz, bz2 or xz) or zip archive atomically.

    ``into`` appears by one rename after the last member was written. An existing folder is
    therefore complete and is kept. A second process waits for the first.

    Args:
        archive: The archive.
        into: The folder to make.
        at_most: Bytes that the members may have together.

    Raises:
        InputError: For a damaged archive or another kind of file; for a member whose name is
            absolute or leads out of the folder, or that is neither a file nor a folder; for more
            than ``at_most`` bytes or too many members; for a folder that cannot be written.
        RunError: When the disk is full.
    """
    try:
        with locked(into):
            if into.is_dir():
                return
            with replacing_folder(into) as unfinished:
                _unpack(archive, unfinished, at_most)
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise unwritable(f"{into}:", error) from None
        raise InputError(f"{archive}: cannot be unpacked into {into}: {reason(error)}") from None


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    plain: bool  # a file or a folder
    write: Callable[[], object]


def _unpack(archive: Path, folder: Path, at_most: int) -> None:
    # Tar first: a tar archive whose last member is a zip archive could pass for one.
    if tarfile.is_tarfile(archive):
        members = _tar_members(archive, folder)
    elif zipfile.is_zipfile(archive):
        members = _zip_members(archive, folder)
    else:
        raise InputError(f"{archive}: neither a tar nor a zip archive")
    unpacked = 0
    for count, member in enumerate(members, start=1):
        unpacked += member.size
        problem = None
        if count > MOST_MEMBERS:
            problem = f"more than {MOST_MEMBERS:,} members"
        elif unpacked > at_most:
            problem = f"more than {at_most:,} bytes unpacked"
        elif not member.plain:
            problem = "a link or a device; files and folders are expected"
        elif _leads_out(member.name):
            problem = "its name leads out of the folder"
        if problem:
            raise InputError(f"{archive}: refused at member {member.name!r}: {problem}")
        member.write()


def _leads_out(name: str) -> bool:
    """Return whether a path is absolute or has '..', on any operating system."""
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or parts[0].endswith(":") or ".." in parts


def _tar_members(archive: Path, folder: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            # Links are refused even within the folder: no corpus needs them, and the data filter
            # can be outwitted by chains of them (CVE-2025-4517).
            plain = info.isreg() or info.isdir()
            write = partial(tar.extract, info, folder, **_FILTER)
            yield _Member(info.name, info.size, plain, write)
        while tar.fileobj and tar.fileobj.read(1 << 20):
            pass  # read to the end, where the checksum is verified


def _zip_members(archive: Path, folder: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the writer knew no modes
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            write = partial(zipped.extract, info, folder)
            yield _Member(info.filename, info.file_size, plain, write)
