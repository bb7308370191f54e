"""The local executor: cells one after the other, or in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.cost.machine import keep_freed_memory
from medtransfer.encoders.encoder import resolve_device
from medtransfer.encoders.loading import build_encoder
from medtransfer.runs.execution import Finished, Runner
from medtransfer.runs.preparation import Prepared, Request, leave_out, prepare
from medtransfer.runs.processes import process_context
from medtransfer.specs.errors import InputError
from medtransfer.specs.protocol import PROBES
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Kind

__all__ = ["build_runner", "fit_plan", "run_cells"]

Started = Callable[[Cell], None]


def build_runner(prepared: Prepared) -> Runner:
    """Build the encoder of a checked request, in the process that will use it."""
    keep_freed_memory()
    encoder = build_encoder(
        prepared.located,
        max_size=prepared.protocol.max_size,
        device=resolve_device(prepared.request.device),
    )
    return Runner(encoder, prepared.data, prepared.protocol)


def run_cells(
    prepared: Prepared, runner: Runner, *, jobs: int, started: Started
) -> Iterator[Finished]:
    """Run the pending cells and yield each as it ends.

    Args:
        prepared: The checked request.
        runner: In this process; other processes build their own.
        jobs: Number of processes.
        started: Called when a cell begins.
    """
    selected = {cell: record.selected for cell, record in prepared.existing.items()}
    if jobs == 1:
        for cell in prepared.pending:
            started(cell)
            finished = runner.run(cell, selected.get(_first_draw(cell)))
            selected[cell] = finished.record.selected
            yield finished
    else:
        yield from _run_in_processes(prepared, runner, selected, started, jobs)


def _first_draw(cell: Cell) -> Cell:
    return cell._replace(draw=0)


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


def _reuses(cell: Cell) -> bool:
    """Whether a cell needs what draw 0 selected."""
    return cell.draw > 0 and cell.budget == "full" and cell.adaptation not in PROBES


def _run_in_processes(
    prepared: Prepared,
    runner: Runner,
    selected: dict[Cell, dict[str, Any]],
    started: Started,
    jobs: int,
) -> Iterator[Finished]:
    """As many cells at a time as there are processes; the driver alone writes the ledger."""
    # The longest first, so that no process works on alone in the end.
    queue = sorted(prepared.pending, key=runner.flops, reverse=True)
    running: dict[Future[Finished], Cell] = {}
    pool = _pool(prepared.request, jobs)

    def fill() -> None:
        """Give every process that has none a cell."""
        waiting = set(queue) | set(running.values())
        ready = [cell for cell in queue if not (_reuses(cell) and _first_draw(cell) in waiting)]
        for cell in ready[: jobs - len(running)]:
            queue.remove(cell)
            started(cell)
            previous = selected.get(_first_draw(cell))
            running[pool.submit(_run_in_worker, cell, previous)] = cell

    try:
        fill()
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            ended: list[Finished] = []
            broken = False
            for future in done:
                cell = running.pop(future)
                try:
                    ended.append(future.result())
                except BrokenProcessPool:
                    broken = True
                    ended.append(
                        runner.fail(cell, "its process or one beside it died (out of memory?)")
                    )
                selected[cell] = ended[-1].record.selected
            if not broken:
                fill()  # before what has ended is written down: no process waits for that
            yield from ended
            if broken:
                for cell in running.values():  # they died with the pool, through no fault of theirs
                    queue.insert(0, cell)
                running.clear()
                pool = _pool(prepared.request, jobs)
                fill()
    finally:
        _stop(pool)


def _pool(request: Request, jobs: int) -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=process_context(),
        initializer=_start_worker,
        initargs=(request, max(1, torch.get_num_threads() // jobs), dict(os.environ)),
    )
    try:
        # Each call that finds no idle process starts one; the first answer is enough.
        answers = [pool.submit(_answer) for _ in range(jobs)]
        answers[0].result()
    except BrokenProcessPool:
        raise InputError(
            "no process could be started, for the reason printed above; a script that calls "
            'evaluate with jobs needs the guard if __name__ == "__main__":'
        ) from None
    except BaseException:
        _stop(pool)
        raise
    return pool


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the processes in the middle of their cells."""
    for process in multiprocessing.active_children():
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


_worker: Runner | None = None


def _start_worker(request: Request, threads: int, environment: dict[str, str]) -> None:
    """Build this process's own runner; Ctrl-C is the driver's to handle."""
    global _worker
    os.environ.clear()  # the server's is that of the driver's first evaluation
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    torch.set_num_threads(threads)
    _worker = build_runner(prepare(request))


def _end_with_driver() -> None:
    """Leave with the driver: one that was killed cannot tell its workers to stop."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _answer() -> None:
    """Show that a process has started."""


def _run_in_worker(cell: Cell, previous: Mapping[str, Any] | None) -> Finished:
    assert _worker is not None
    return _worker.run(cell, previous)
