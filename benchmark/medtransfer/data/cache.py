"""Where data are looked for, and where what is made of them is kept."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "data_from_environment"]


def cache_folder() -> Path:
    """Decoded splits, features and downloads: ``BENCH_CACHE`` or a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medtransfer"
    return Path(os.environ.get("BENCH_CACHE") or default)


def data_from_environment() -> Path | None:
    """``BENCH_DATA``, the folder that ``--data`` would name."""
    value = os.environ.get("BENCH_DATA")
    return Path(value) if value else None
