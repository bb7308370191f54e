"""The local executors: cells one after the other, or in several processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.core.errors import InputError, RunError, reason
from medtransfer.core.plugins import safe_path
from medtransfer.encoders.encoder import resolve_device
from medtransfer.encoders.loading import build_encoder
from medtransfer.evaluation.executors.processes import process_context
from medtransfer.evaluation.executors.scheduling import Death, Executor, schedule
from medtransfer.evaluation.request import Prepared, Request, leave_out, prepare
from medtransfer.evaluation.runner import Finished, Runner
from medtransfer.specs.protocol import PROBES
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Kind

__all__ = ["Here", "Processes", "build_runner", "fit_plan", "run_cells"]


def build_runner(prepared: Prepared) -> Runner:
    """Build the encoder of a checked request, in the process that will use it.

    The driver of a cluster only counts and compares, and need not have the nodes' devices.
    """
    keep_freed_memory()
    request = prepared.request
    device = resolve_device("cpu" if request.executor == "ray" else request.device)
    encoder = build_encoder(prepared.located, max_size=prepared.protocol.max_size, device=device)
    return Runner(encoder, prepared.data, prepared.protocol)


def run_cells(
    prepared: Prepared,
    runner: Runner,
    executor: Executor,
    *,
    started: Callable[[Cell], None],
) -> Iterator[Finished]:
    """Run the pending cells and yield each as it ends; see `schedule`.

    Args:
        prepared: The checked request.
        runner: In this process; other processes build their own.
        executor: Where the cells run.
        started: Called when a cell begins.
    """
    cells = prepared.pending
    if not isinstance(executor, Here):
        # The longest first, so that no process works on alone in the end.
        cells.sort(key=runner.flops, reverse=True)
    selected = {cell: record.selected for cell, record in prepared.existing.items()}
    yield from schedule(cells, executor, selected=selected, started=started, fail=runner.fail)


def fit_plan(prepared: Prepared, runner: Runner) -> Prepared:
    """Leave out what the encoder cannot do, such as segmentation where it gives no feature maps.

    Raises:
        InputError: When nothing is left.
    """
    kinds = {name: data.card.kind for name, data in prepared.data.items()}
    reasons: dict[tuple[Kind, str], str] = {}
    for kind, adaptation in dict.fromkeys((kinds[c.task], c.adaptation) for c in prepared.cells):
        if adaptation in PROBES:
            continue
        maps = kind == "segmentation"
        try:
            prepare_encoder(runner.encoder, adaptation, prepared.protocol, maps=maps)
        except InputError as error:
            reasons[kind, adaptation] = str(error)
    return leave_out(prepared, reasons) if reasons else prepared


class Here:
    """One cell at a time, in this process."""

    def __init__(self, runner: Runner) -> None:
        """Use a runner that is built."""
        self._runner = runner
        self._next: list[tuple[Cell, Mapping[str, Any] | None]] = []

    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Remember the cell: it runs while it is waited for."""
        self._next.append((cell, previous))

    def wait(self) -> list[tuple[Cell, Finished | Death]]:
        """Run the cell."""
        cell, previous = self._next.pop()
        return [(cell, self._runner.run(cell, previous))]

    def close(self) -> None:
        """Nothing is under way."""


class Processes:
    """Several cells at a time, each in a process of this machine.

    Each process has a pipe of its own, so that it is known which cell one was at when it died,
    and the others go on.
    """

    def __init__(self, request: Request, jobs: int) -> None:
        """Start the processes, which prepare the request and build the encoder by themselves."""
        threads = max(1, torch.get_num_threads() // jobs)
        self._start = (request, threads)
        self._workers = [_Worker(*self._start) for _ in range(jobs)]

    def slots(self) -> int:
        """As many as there are processes."""
        return len(self._workers)

    def submit(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Give the cell to a process that has none."""
        worker = next(worker for worker in self._workers if worker.cell is None)
        worker.give(cell, previous)

    def wait(self) -> list[tuple[Cell, Finished | Death]]:
        """Wait for the first process that answers or dies; a new one takes a dead one's place."""
        ready = connection.wait([worker.pipe for worker in self._workers])
        results: list[tuple[Cell, Finished | Death]] = []
        for place, worker in enumerate(self._workers):
            if worker.pipe not in ready:
                continue
            answer, cell = worker.receive(), worker.cell
            if isinstance(answer, Death):
                if not worker.ready:
                    raise InputError(
                        "no process could be started, for the reason printed above; a script that "
                        'calls evaluate with jobs needs the guard if __name__ == "__main__":'
                    )
                self._workers[place] = _Worker(*self._start)
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
    """A process, this end of its pipe, and the cell that it is at."""

    def __init__(self, request: Request, threads: int) -> None:
        context = process_context()
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_serve, args=(other, request, threads, dict(os.environ)), daemon=True
        )
        try:
            with safe_path():
                self.process.start()
        except (EOFError, OSError) as error:  # the former where the fork server has died
            raise RunError(
                f"no process could be started: {reason(error)}; with --jobs 1 none is needed"
            ) from None
        other.close()  # so that the pipe ends with the process
        self.ready = False
        self.cell: Cell | None = None

    def give(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Send a cell; if the process is gone, that is found when its answer is waited for."""
        self.cell = cell
        with suppress(OSError):
            self.pipe.send((cell, previous))

    def receive(self) -> Finished | Death | None:
        """What the process sends next: ``None`` when it has begun to serve."""
        try:
            answer: Finished | None = self.pipe.recv()
        except (EOFError, OSError):
            self.pipe.close()
            self.process.join()
            return Death(_describe_end(self.process.exitcode))
        self.ready = True
        return answer


def _describe_end(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None or code >= 0:
        return f"its process ended by itself, with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    reason = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{reason}"


def _serve(pipe: Connection, request: Request, threads: int, environment: dict[str, str]) -> None:
    """Run cells until the driver is gone; Ctrl-C is the driver's to handle."""
    os.environ.clear()  # the server's is that of the driver's first evaluation
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)
    runner = build_runner(prepare(request))
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
