"""Kill a process at each of its steps on the disk, one after the other."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

__all__ = ["kill_at_each_step"]

_STEPS = (
    "open",
    "os.chmod",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.truncate",
    "tempfile.mkstemp",
)


def kill_at_each_step(work: Callable[[], object]) -> Iterator[int]:
    """Do work in processes of its own, and kill the n-th one (SIGKILL) before its n-th step.

    A step opens, renames, removes or truncates a file, or changes its mode.

    Yields:
        n, after each kill; the last process does its work undisturbed, and ends the loop.
    """
    step = 0
    while True:
        step += 1
        child = os.fork()
        if child == 0:
            _work_until(step, work)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield step


def _work_until(step: int, work: Callable[[], object]) -> None:
    """Never return: the process ends, or is killed at its step."""
    left = step

    def watch(event: str, _: object) -> None:
        nonlocal left
        if event in _STEPS:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(watch)
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)
