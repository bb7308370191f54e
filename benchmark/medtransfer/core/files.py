"""Atomic writes of files and folders, and locks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock


def replace(path: Path, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``, which replaces it in one step afterwards."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        yield temporary
        os.fsync(handle)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, which replaces it afterwards.

    An existing folder is removed first. Readers see a whole folder or none.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def leftovers(path: Path) -> list[Path]:
    """List the temporary files that killed processes left behind in `replacing`.

    Args:
        path: The file that was to be replaced; its name may be a `glob` pattern.
    """
    return list(path.parent.glob(f".{path.name}.*"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file or folder.

    Makes the parent folder, and removes the leftovers of killed processes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        for old in leftovers(path):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        yield


def release(lock: FileLock) -> None:
    """Release a lock and delete its file."""
    with suppress(OSError):  # before releasing it: afterwards another process may hold the file
        Path(lock.lock_file).unlink()
    lock.release()
