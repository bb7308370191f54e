"""Switch of every trick in this package."""

from __future__ import annotations

import os


def accelerated() -> bool:
    """Return whether tricks for speed are on: always, unless ``BENCH_ACCELERATION`` is ``0``."""
    return os.environ.get("BENCH_ACCELERATION") != "0"
