"""Data folder and cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from medtransfer.core.errors import InputError, RunError, unwritable


def cache_folder() -> Path:
    """Return the folder of decoded splits, features and downloads; ``BENCH_CACHE`` sets it."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medtransfer"
    return Path(os.environ.get("BENCH_CACHE") or default)


def cache_unwritable(path: Path, error: OSError) -> InputError | RunError:
    """Make the error for a cache file that was not written."""
    then = "; set BENCH_CACHE to a writable folder with enough space"
    return unwritable(f"{path}:", error, then=then)


def data_folder(option: Path | None) -> Path | None:
    """Return the user's data folder: ``--data``, else ``BENCH_DATA``, else ``None``.

    Raises:
        InputError: When it is not a folder.
    """
    variable = os.environ.get("BENCH_DATA")
    name, folder = "--data", option
    if option is None and variable:
        name, folder = "BENCH_DATA", Path(variable)
    if folder is not None:
        check_folder(folder, name)
    return folder


def check_folder(folder: Path, name: str = "--data") -> None:
    """Refuse a path that is not a folder, given by the option or variable ``name``.

    Raises:
        InputError: When it is not a folder.
    """
    if not folder.is_dir():
        raise InputError(f"{name}: {folder} is not a folder")
