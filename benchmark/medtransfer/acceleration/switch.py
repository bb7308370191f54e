"""Switch for all optimisations of this package."""

from __future__ import annotations

import os


def accelerated() -> bool:
    """Check whether optimisations are on: unless ``BENCH_ACCELERATION`` is ``0``."""
    return os.environ.get("BENCH_ACCELERATION") != "0"
