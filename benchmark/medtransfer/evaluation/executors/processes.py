"""The process executor: several cells at a time, in processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from medtransfer.core.errors import InputError, RunError, reason
from medtransfer.core.plugins import safe_path
from medtransfer.evaluation.executors.jobs import process_context
from medtransfer.evaluation.executors.scheduling import WorkerCrash
from medtransfer.evaluation.runner import Finished
from medtransfer.evaluation.setup import WorkerSetup
from medtransfer.specs.record import Cell


class ProcessExecutor:
    """Several cells at a time, each in a process of this machine.

    Each process has its own pipe: when one dies, its cell is known and the others continue.
    """

    def __init__(self, setup: WorkerSetup, jobs: int) -> None:
        """Start the processes; each builds the encoder."""
        self._setup = setup
        self._workers = [_Worker(setup) for _ in range(jobs)]

    def slots(self) -> int:
        """Return the number of processes."""
        return len(self._workers)

    def submit(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Give the cell to an idle process."""
        worker = next(worker for worker in self._workers if worker.cell is None)
        worker.give(cell, previous)

    def wait(self) -> list[tuple[Cell, Finished | WorkerCrash]]:
        """Wait for the first process that answers or dies, and replace dead ones.

        Raises:
            InputError: When a process cannot be started, or cannot build the encoder.
        """
        ready = connection.wait([worker.pipe for worker in self._workers])
        results: list[tuple[Cell, Finished | WorkerCrash]] = []
        for place, worker in enumerate(self._workers):
            if worker.pipe not in ready:
                continue
            answer, cell = worker.receive(), worker.cell
            if isinstance(answer, InputError):
                raise answer
            if isinstance(answer, WorkerCrash):
                if not worker.ready:
                    raise InputError(
                        "--jobs: no process could be started; see the error above. A script that "
                        'sets jobs needs the guard if __name__ == "__main__":'
                    )
                self._workers[place] = _Worker(self._setup)
            if cell is not None and answer is not None:
                worker.cell = None
                results.append((cell, answer))
        return results

    def close(self) -> None:
        """End the processes, in the middle of their cells if need be."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()


class _Worker:
    """A worker process, the driver's end of its pipe, and its current cell."""

    def __init__(self, setup: WorkerSetup) -> None:
        context = process_context()
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(other, setup, dict(os.environ)), daemon=True
        )
        try:
            with safe_path():
                self.process.start()
        except (EOFError, OSError) as error:  # the former where the fork server has died
            raise RunError(
                f"--jobs: no process could be started: {reason(error)}; use --jobs 1"
            ) from None
        other.close()  # else the pipe stays open after the process has died
        self.ready = False
        self.cell: Cell | None = None

    def give(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Send a cell; if the process is gone, that is found when its answer is waited for."""
        self.cell = cell
        with suppress(OSError):
            self.pipe.send((cell, previous))

    def receive(self) -> Finished | WorkerCrash | InputError | None:
        """Receive an answer: ``None`` when the process serves, an error when it never will."""
        try:
            answer: Finished | InputError | None = self.pipe.recv()
        except (EOFError, OSError):
            self.pipe.close()
            self.process.join()
            return WorkerCrash(_describe_end(self.process.exitcode))
        self.ready = True
        return answer


def _describe_end(code: int | None) -> str:
    """Describe how a process ended."""
    if code is None or code >= 0:
        return f"its process ended by itself, with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    reason = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{reason}"


def _serve(pipe: Connection, setup: WorkerSetup, environment: dict[str, str]) -> None:
    """Run cells until the driver is gone; Ctrl-C is the driver's to handle."""
    os.environ.clear()  # the server's is that of the driver's first evaluation
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        runner = setup.build()
    except InputError as error:
        pipe.send(error)
        return
    pipe.send(None)
    while True:
        try:
            cell, previous = pipe.recv()
        except (EOFError, OSError):  # the latter of a driver that was killed
            return
        finished = runner.run(cell, previous)
        with suppress(OSError):
            pipe.send(finished)


def _end_with_driver() -> None:
    """Leave with the driver: one that was killed cannot tell its workers to stop."""
    driver = parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
