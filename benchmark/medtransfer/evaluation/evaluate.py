"""`medtransfer.evaluate`: request, data, encoder, plan, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core.errors import InputError
from medtransfer.evaluation.executors.jobs import choose_jobs, start_server
from medtransfer.evaluation.failures import log_failure
from medtransfer.evaluation.progress import RunProgress
from medtransfer.evaluation.request import Prepared, Request, check_weights, prepare
from medtransfer.specs.record import Record

if TYPE_CHECKING:
    from medtransfer.evaluation.executors.scheduling import Executor
    from medtransfer.evaluation.runner import Runner

__all__ = ["evaluate", "run"]


def evaluate(
    encoder: str | Path,
    *,
    architecture: str | None = None,
    suite: str | None = None,
    tasks: Sequence[str] = (),
    budgets: Sequence[str] = (),
    adaptations: Sequence[str] = (),
    protocol: str = "v1",
    out: str | Path = "submissions",
    data: str | Path | None = None,
    task_folder: str | Path | None = None,
    device: str = "auto",
    jobs: int | None = 1,
    fresh: bool = False,
    executor: str = "local",
    address: str | None = None,
) -> list[Record]:
    """Evaluate an encoder under a fixed protocol.

    Cells that ``out`` already holds are not run again, so the call can be repeated after an
    interruption, or from a training loop.

    Args:
        encoder: A registered name, ``timm:NAME``, ``hf-hub:OWNER/NAME``, a checkpoint, a folder
            with ``encoder.yaml``, or a ``.py`` file that registers one.
        architecture: timm's name of a checkpoint's architecture.
        suite: Name of a list of tasks; default ``phantom``, or all of ``task_folder``.
        tasks: Names of single tasks, instead of a suite.
        budgets: Only these, e.g. ``["10-shot"]``; default all of the protocol.
        adaptations: Only these, e.g. ``["linear"]``; default all of the protocol.
        protocol: ``v1``, ``quick`` or ``medmnist``.
        out: Folder of submissions; records go to ``out/<encoder>/records.jsonl``.
        data: Folder in which the cards' files are looked for.
        task_folder: Folder of task cards of one's own.
        device: ``auto``, ``cpu`` or ``cuda``.
        jobs: Number of processes; ``None`` chooses. A script that asks for more than one needs
            the guard ``if __name__ == "__main__":``, as all of Python's processes do.
        fresh: Forget earlier records in ``out`` of the cells that are asked for.
        executor: ``local``, or ``ray``: on a cluster, by default on all of it.
        address: Of the Ray cluster, as ``ray.init`` takes it; default is ``RAY_ADDRESS``, or one
            of this machine that is started for this evaluation.

    Returns:
        The records of all cells that were asked for, in the plan's order.

    Raises:
        medtransfer.specs.base.InputError: When the input is wrong; nothing is written then.
    """
    for name, value in (("tasks", tasks), ("budgets", budgets), ("adaptations", adaptations)):
        if isinstance(value, str):
            raise InputError(
                f"{name}: a list such as ['{value}'] is expected; a folder of cards is task_folder"
            )
    request = Request(
        encoder=str(encoder),
        architecture=architecture,
        suite=suite,
        tasks=tuple(tasks),
        budgets=tuple(budgets),
        adaptations=tuple(adaptations),
        protocol=protocol,
        out=Path(out),
        data=Path(data) if data else None,
        task_folder=Path(task_folder) if task_folder else None,
        device=device,
        jobs=jobs,
        fresh=fresh,
        executor=executor,
        address=address,
    )
    return run(prepare(request))


def run(
    prepared: Prepared,
    progress: RunProgress | None = None,
    *,
    on_failure: Callable[[str], object] | None = None,
) -> list[Record]:
    """Run the pending cells of a checked request.

    Args:
        prepared: The request.
        progress: Is told of each cell.
        on_failure: Takes the traceback of each cell that failed; all are in the log, too.

    Returns:
        The records of all its cells, in the plan's order.
    """
    progress = progress or RunProgress()
    ledger, request = prepared.ledger, prepared.request
    records = dict(prepared.existing)
    if not prepared.pending:
        ledger.mend(prepared.encoder.card)
        return [records[cell] for cell in prepared.cells]
    jobs = 1
    if request.executor == "local":
        jobs = choose_jobs(request.jobs, device=request.device, cells=len(prepared.pending))
    if jobs > 1:
        start_server()
    # Here, and not above: a finished evaluation must not wait for torch.
    from medtransfer.evaluation.executors.scheduling import schedule
    from medtransfer.evaluation.setup import build_runner

    runner = build_runner(prepared)
    plan = prepared.plan(limits=runner.find_limits(prepared.cells))
    check_weights(prepared, runner.encoder.state)
    pending = prepared.find_pending(plan.cells)
    flops = {cell: 0 if cell in plan.not_applicable else runner.flops(cell) for cell in pending}
    left_out = [cell for cell in pending if cell in plan.not_applicable]
    cells = [cell for cell in pending if cell not in plan.not_applicable]
    executor, notes = _start(prepared, runner, jobs)
    if jobs > 1 or request.executor == "ray":
        # The longest first, so that no process works on alone in the end.
        cells.sort(key=flops.__getitem__, reverse=True)
    with closing(executor):
        ledger.open(prepared.encoder.card, keep=list(records.values()) if request.fresh else None)
        try:
            progress.begin(flops, len(plan.cells), [*notes, *plan.notes, *runner.encoder.notes])
            for finished in chain(
                schedule(
                    cells,
                    executor,
                    selected={cell: record.selected for cell, record in records.items()},
                    started=progress.started,
                    fail=runner.fail,
                ),
                (runner.leave_out(cell, plan.not_applicable[cell]) for cell in left_out),
            ):
                record = finished.record
                if record.status == "failed":
                    log_failure(ledger.folder, record, finished.traceback)
                    if on_failure is not None and finished.traceback:
                        on_failure(finished.traceback)
                records[record.cell] = ledger.append(
                    record, replicates=finished.replicates, predictions=finished.predictions
                )
                progress.finished(records[record.cell])
        finally:
            progress.end()
            ledger.close()
    return [records[cell] for cell in plan.cells]


def _start(prepared: Prepared, runner: Runner, jobs: int) -> tuple[Executor, list[str]]:
    """Start the executor that was asked for; with it comes what the user should know of it."""
    import torch

    from medtransfer.evaluation.setup import pack_files, set_up_worker

    request = prepared.request
    if request.executor == "ray":
        from medtransfer.evaluation.executors.ray import RayExecutor

        cluster = RayExecutor(
            pack_files(set_up_worker(prepared, runner, threads=1), prepared.encoder),
            parameters=sum(p.numel() for p in runner.encoder.parameters()),
            address=request.address,
            jobs=request.jobs,
        )
        return cluster, [cluster.note]
    if jobs == 1:
        from medtransfer.evaluation.executors.serial import SerialExecutor

        return SerialExecutor(runner), []
    from medtransfer.evaluation.executors.processes import ProcessExecutor

    setup = set_up_worker(prepared, runner, threads=max(1, torch.get_num_threads() // jobs))
    note = f"{jobs} cells at a time, in processes of their own (--jobs)"
    return ProcessExecutor(setup, jobs), [note]
