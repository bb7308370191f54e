"""Find published files on disk or download them; verify the MD5 before use."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from medtransfer.core.errors import InputError, reason, unwritable
from medtransfer.core.files import replacing
from medtransfer.data.files.cache import cache_folder, check_folder
from medtransfer.data.files.http import Unavailable, can_fetch, drop, fetch
from medtransfer.data.files.remote import SILENT, Progress, RemoteFile


def find(file: RemoteFile, folder: Path | None) -> Path | None:
    """Find the file on disk, without computing its checksum.

    Args:
        file: The file.
        folder: The user's data folder (``--data``), searched before the download folder.

    Returns:
        The first path that exists of ``folder/name``, ``folder/file.folder/name`` and the one in
        the download folder; ``None`` where there is none.

    Raises:
        InputError: When ``folder`` is not a folder.
    """
    if folder is not None:
        check_folder(folder)
    places = [] if folder is None else [folder / file.name, folder / file.folder / file.name]
    return next((path for path in [*places, _download_path(file)] if path.is_file()), None)


def obtain(
    file: RemoteFile,
    folder: Path | None,
    progress: Progress = SILENT,
    *,
    into: Path | None = None,
) -> Path:
    """Find the file or download it, and verify its checksum.

    The addresses of ``BENCH_MIRRORS`` are tried before the official one. An interrupted download
    is resumed, in this call and in later ones. While another process downloads the same file,
    this one waits.

    Args:
        file: The file.
        folder: The user's data folder (``--data``), searched before the download folder.
        progress: Shows a download.
        into: Target folder, instead of the download folder of the cache.

    Returns:
        The file's path.

    Raises:
        InputError: For a file in the user's folder with another checksum, a file that no address
            provides, an address that is not http or https, a folder that cannot be written, or
            a missing file while ``BENCH_OFFLINE`` is set.
    """
    path = find(file, folder)
    target = _download_path(file) if into is None else into / file.name
    if path is None and target.is_file():
        path = target
    if path is not None:
        if (md5 := _md5_of(path)) == file.md5:
            return path if into is None or path.is_relative_to(into) else _copy(path, target)
        if path != _download_path(file):
            raise InputError(
                f"{path}: MD5 is {md5}, expected {file.md5}: the file is damaged or of another "
                "version; delete or move it to download it again"
            )
    addresses = _addresses(file)
    if os.environ.get("BENCH_OFFLINE", "0") not in ("", "0"):
        place = target if folder is None else folder / file.name
        raise InputError(
            f"{file.name}: missing (MD5 {file.md5}), and BENCH_OFFLINE is set; download it "
            f"from {file.url} ({file.licence}) to {place}"
        )
    with _locked(file, target, progress):
        # Another process may have fetched it while this one waited.
        if target.is_file() and _md5_of(target) == file.md5:
            return target
        if path is not None:
            progress.warn(f"{path}: damaged; downloading it again")
            path.unlink(missing_ok=True)
        _download(file, addresses, target, progress)
    return target


def _download_path(file: RemoteFile) -> Path:
    return cache_folder() / "downloads" / file.folder / file.name


def _addresses(file: RemoteFile) -> list[str]:
    """List the mirrors' addresses, then the official one."""
    mirrors = os.environ.get("BENCH_MIRRORS", "").replace(",", " ").split()
    for mirror in mirrors:
        if not can_fetch(mirror):
            raise InputError(f"BENCH_MIRRORS: '{mirror}' is not an http or https address")
    if not can_fetch(file.url):
        raise InputError(f"{file.name}: '{file.url}' is not an http or https address")
    inside = quote(f"{file.folder}/{file.name}".removeprefix("/"))
    return [*(f"{mirror.rstrip('/')}/{inside}" for mirror in mirrors), file.url]


@contextmanager
def _locked(file: RemoteFile, target: Path, progress: Progress) -> Iterator[None]:
    """Keep other processes from downloading the same file. The lock ends with the process."""
    lock = FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.warn(f"{file.name}: another process is downloading it; waiting")
            lock.acquire()
    except OSError as error:
        raise unwritable(f"{target.parent}:", error) from None
    try:
        yield
    finally:
        lock.release()


def _download(file: RemoteFile, addresses: list[str], target: Path, progress: Progress) -> None:
    """Try each address in turn until the checksum matches."""
    part = target.with_name(f"{target.name}.part")
    problems: list[str] = []
    progress.announce(file, addresses[0])
    for url in addresses:
        if problems:
            progress.warn(f"{file.name}: {problems[-1]}; trying {url}")
        try:
            fetch(file, url, part, progress)
        except Unavailable as error:
            problems.append(f"{url}: {error}")
            continue
        if (md5 := _md5_of(part)) == file.md5:
            part.replace(target)
            drop(part)
            progress.finish(file)
            return
        drop(part)
        problems.append(f"{url}: wrong bytes (MD5 {md5}, expected {file.md5})")
    raise InputError(
        f"{file.name}: could not be downloaded: {'; '.join(problems)}; run the same command again "
        f"later, or put the file at {target}"
    )


def _copy(path: Path, target: Path) -> Path:
    """Copy the file to another folder atomically."""
    try:
        with replacing(target) as part:
            shutil.copyfile(path, part)
    except OSError as error:
        raise unwritable(f"{target}:", error) from None
    return target


def _md5_of(path: Path) -> str:
    try:
        state = path.stat()
        return _md5(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None


@cache
def _md5(path: Path, size: int, mtime_ns: int) -> str:
    """Compute the MD5 of a file of this size and time, once per process."""
    with path.open("rb") as file:
        # MD5 detects damage, not forgery; the flag allows it where MD5 is banned for security.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
