"""Keep freed memory for the next allocation."""

from __future__ import annotations

import ctypes
from functools import cache

from medtransfer.acceleration.switch import accelerated

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next allocation.

    By default it returns large blocks to the system. Every training step on a CPU then gets
    thousands of new pages, which the kernel clears one by one: a tenth of the time of a
    step of a ResNet-18 at 64 px. The setting holds for the whole process; kept memory is returned
    when a new measurement of peak memory starts. With ``BENCH_ACCELERATION=0`` nothing is set.
    """
    if accelerated() and (libc := glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the largest value that glibc accepts
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@cache
def glibc() -> ctypes.CDLL | None:
    """Load the C library; ``None`` if it is not glibc."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except (OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
