"""Files and folders that are there whole or not at all, and locks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock


def replace(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to be written, which then takes its place in one step."""
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
    """Give a folder beside ``path`` to be filled, which then takes its place.

    A folder that stands there is removed first. Readers see a whole folder or none.
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
    """List what `replacing` had begun to write when its process was killed.

    Args:
        path: What was to be replaced; a pattern in its name is taken as in `glob`.
    """
    return list(path.parent.glob(f".{path.name}.*"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file or folder.

    Its parent is made, and what killed processes left of it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        for old in leftovers(path):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        yield


def release(lock: FileLock) -> None:
    """Release a lock and delete its file."""
    with suppress(OSError):  # while it is held: later it might be somebody else's
        Path(lock.lock_file).unlink()
    lock.release()
