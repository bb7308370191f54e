"""Choose the number of processes, and start the server that forks them. Imports no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.context import BaseContext
from pathlib import Path

from medtransfer.core.plugins import safe_path

_PRELOADED = ["medtransfer.evaluation.executors.processes"]
_MOST = 8  # more processes do not help; threads share the work of a cell
CELL_MEMORY = 8 * 2**30  # bytes that a process may need: a batch of 64 images of 224 px in training
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def choose_jobs(asked: int | None, *, device: str, cells: int) -> int:
    """Choose the number of processes: what is asked for, or what suits the machine.

    A network of a few million parameters trains faster in two processes of one thread each than
    in one of two threads, which wait for each other; a GPU is filled by one.

    Args:
        asked: By the user.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        cells: How many are to be run.
    """
    if asked is not None:
        return asked
    if device != "cpu":
        import torch  # imported late: a finished evaluation does not need it

        if torch.cuda.is_available():
            return 1
    memory = _available_memory() // CELL_MEMORY
    return max(1, min(available_cores(), memory, cells, _MOST))


def available_cores() -> int:
    """Count the cores that this process may use: ``OMP_NUM_THREADS``, or the system's limit."""
    named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if named.isdigit() and int(named) > 0:
        return int(named)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _available_memory() -> int:
    """Count bytes that can be had: free of the machine's, at most what a container is given."""
    return min([_free_memory(), *filter(None, map(_read_limit, _LIMITS))])


def _read_limit(path: str) -> int:
    """Read a limit in bytes, or 0 where there is none."""
    try:
        content = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(content) if content.isdigit() else 0


def _free_memory() -> int:
    """Count bytes that are free without swapping; all of the memory where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return CELL_MEMORY


def process_context() -> BaseContext:
    """Choose how processes are started: torch's threads do not survive a fork of this one."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def start_server(*modules: str) -> None:
    """Have the server import torch and the rest once, while this process does the same.

    Args:
        modules: Further modules that every process will need.
    """
    context = process_context()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([*_PRELOADED, *modules])
        from multiprocessing import forkserver

        # Until its imports are done, Ctrl-C would end it with a traceback.
        main = threading.current_thread() is threading.main_thread()
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        try:
            with safe_path():
                forkserver.ensure_running()
        finally:
            if main:
                signal.signal(signal.SIGINT, handler)
