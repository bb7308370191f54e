"""Run a function over many encoders in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from medtransfer.core.plugins import safe_path

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_in_processes(
    function: Callable[[_In], _Out], items: Sequence[_In], *, processes: int
) -> Iterable[_Out]:
    """Results in the order of the items.

    Args:
        function: Of a module; it and what it takes and gives are sent between processes.
        items: What it is called with.
        processes: How many; one is this process itself.
    """
    if processes < 2 or len(items) < 2:
        return map(function, items)
    return _map(function, items, min(processes, len(items)))


def _map(function: Callable[[_In], _Out], items: Sequence[_In], processes: int) -> Iterator[_Out]:
    # A fork has all modules at once; a second of imports is half of what the work takes.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    gc.freeze()  # else garbage collection in a fork writes to the shared memory, and so copies it
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            with safe_path():
                results = pool.map(function, items)
            yield from results
    finally:
        gc.unfreeze()


@contextmanager
def without_collection() -> Iterator[None]:
    """Pause garbage collection while hundreds of thousands of records are read.

    They hold no cycles, and collecting takes a tenth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
