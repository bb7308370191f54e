"""Where data are looked for, and where what is made of them is kept."""

from __future__ import annotations

import os
from pathlib import Path

from medtransfer.core.errors import InputError, RunError, unwritable


def cache_folder() -> Path:
    """Decoded splits, features and downloads: ``BENCH_CACHE`` or a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medtransfer"
    return Path(os.environ.get("BENCH_CACHE") or default)


def cache_unwritable(path: Path, error: OSError) -> InputError | RunError:
    """The error of a file in the cache that was not written."""
    then = "; set BENCH_CACHE to a folder that can be written and has room"
    return unwritable(f"{path}:", error, then=then)


def data_folder(option: Path | None) -> Path | None:
    """Where files are looked for: ``--data``, else ``BENCH_DATA``, else nowhere.

    Raises:
        InputError: When it is no folder.
    """
    variable = os.environ.get("BENCH_DATA")
    name, folder = "--data", option
    if option is None and variable:
        name, folder = "BENCH_DATA", Path(variable)
    if folder is not None:
        check_folder(folder, name)
    return folder


def check_folder(folder: Path, name: str = "--data") -> None:
    """Refuse a path that is no folder, which an option or variable ``name`` gave.

    Raises:
        InputError: When it is none.
    """
    if not folder.is_dir():
        raise InputError(f"{name}: {folder} is not a folder")
