"""Keep freed memory for the next allocation."""

from __future__ import annotations

import ctypes
from functools import cache

from medtransfer.acceleration.switch import accelerated

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for its next allocation.

    By default it gives large blocks back to the system, and so every training step on a CPU is
    handed thousands of pages anew, which the kernel clears one by one: a tenth of the time of a
    step of a ResNet-18 at 64 px. The setting is the process's, and stays; what is kept is given
    back where a new measurement of the peak begins. With ``BENCH_ACCELERATION=0`` nothing is set.
    """
    if accelerated() and (libc := glibc()) is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2**25)  # the largest value that is taken
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@cache
def glibc() -> ctypes.CDLL | None:
    """Load the C library, or return ``None`` where it is not glibc."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except (OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
