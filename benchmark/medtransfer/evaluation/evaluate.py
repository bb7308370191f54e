"""`medtransfer.evaluate`: request, data, encoder, plan, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core.progress import JobProgress
from medtransfer.evaluation.executors.jobs import choose_jobs, start_server
from medtransfer.evaluation.failures import log_failure
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import Prepared, check_weights, prepare
from medtransfer.evaluation.summary import summarise
from medtransfer.specs.record import Record

if TYPE_CHECKING:
    from medtransfer.evaluation.executors.scheduling import Executor
    from medtransfer.evaluation.runner import Runner

# Work besides training (reading, metrics, bootstrap), in FLOPs per cell, for the progress bar.
_OVERHEAD = 20_000_000_000


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

    Cells that ``out`` already holds are not run again: call it again to resume after an
    interruption, or call it from a training loop.

    Args:
        encoder: A registered name, ``timm:NAME``, ``hf-hub:OWNER/NAME``, a checkpoint, a folder
            with ``encoder.yaml``, or a ``.py`` file that registers one.
        architecture: Architecture of a checkpoint file, as timm names it.
        suite: Named list of tasks. Default: ``phantom``, or all cards in ``task_folder``.
        tasks: Names of single tasks, instead of a suite.
        budgets: Such as ``["10-shot"]``. Default: all of the protocol.
        adaptations: Such as ``["linear"]``. Default: all of the protocol.
        protocol: ``v1``, ``quick`` or ``medmnist``.
        out: Folder of submissions; records go to ``out/<encoder>/records.jsonl``.
        data: Folder with the data files. Default: ``BENCH_DATA``.
        task_folder: Folder of your own task cards.
        device: ``auto``, ``cpu`` or ``cuda``.
        jobs: Number of processes; ``None`` chooses for the machine. A script that asks for more
            than one needs the guard ``if __name__ == "__main__":``.
        fresh: Discard existing records in ``out`` of the requested cells.
        executor: ``local``, or ``ray`` to run the cells on a Ray cluster.
        address: Address of the Ray cluster, as for ``ray.init``. Default: ``RAY_ADDRESS``, or a
            new cluster on this machine.

    Returns:
        The records of all requested cells, in the order of the plan.

    Raises:
        medtransfer.core.errors.InputError: When the input is wrong; nothing is written then.

    Examples:
        >>> import medtransfer
        >>> records = medtransfer.evaluate(
        ...     "pixels",
        ...     tasks=["phantom_ct"],
        ...     budgets=["1-shot"],
        ...     adaptations=["knn"],
        ...     protocol="quick",
        ...     out="results",
        ... )
        >>> [(record.task.name, record.budget, record.draw) for record in records]
        [('phantom_ct', '1-shot', 0), ('phantom_ct', '1-shot', 1), ('phantom_ct', '1-shot', 2)]
        >>> sorted(records[0].metrics)
        ['in_domain', 'other-scanner']
    """
    return run(prepare(Request.of(locals())))


def run(
    prepared: Prepared,
    progress: JobProgress | None = None,
    *,
    on_failure: Callable[[str], object] | None = None,
) -> list[Record]:
    """Run the pending cells of a checked request.

    Args:
        prepared: The request.
        progress: Called for each cell.
        on_failure: Takes the traceback of each cell that failed; all are in the log, too.

    Returns:
        The records of all its cells, in the plan's order.
    """
    progress = progress or JobProgress()
    ledger, request = prepared.ledger, prepared.request
    records = dict(prepared.existing)
    if not prepared.pending:
        ledger.mend(prepared.encoder.card)
        return [records[cell] for cell in prepared.cells]
    jobs = 1
    if request.executor == "local":
        jobs = choose_jobs(request.jobs, device=request.device, cells=len(prepared.pending))
    if jobs > 1:
        start_server(*(["timm"] if prepared.encoder.card.architecture.timm else []))
    # Imported late: a finished evaluation does not need torch.
    from medtransfer.evaluation.executors.scheduling import schedule
    from medtransfer.evaluation.setup import build_runner

    runner = build_runner(prepared)
    plan = prepared.plan(limits=runner.find_limits(prepared.cells))
    check_weights(prepared, runner.encoder.weights_sha256)
    pending = prepared.find_pending(plan.cells)
    flops = {cell: 0 if cell in plan.not_applicable else runner.flops(cell) for cell in pending}
    left_out = [cell for cell in pending if cell in plan.not_applicable]
    cells = [cell for cell in pending if cell not in plan.not_applicable]
    executor, notes = _start(prepared, runner, jobs)
    if jobs > 1 or request.executor == "ray":
        # Longest first, so that all processes end at about the same time.
        cells.sort(key=flops.__getitem__, reverse=True)
    with closing(executor):
        ledger.open(prepared.encoder.card, keep=list(records.values()) if request.fresh else None)
        try:
            if not request.fresh:  # another evaluation may have ended since this one was prepared
                records |= prepared.read_records()
                done = {cell for cell, record in records.items() if record.settled}
                cells = [cell for cell in cells if cell not in done]
                left_out = [cell for cell in left_out if cell not in done]
            for note in (*notes, *plan.notes, *runner.encoder.notes):
                progress.warn(note)
            flops = {cell: flops[cell] for cell in (*cells, *left_out)}
            work = {cell: count + _OVERHEAD for cell, count in flops.items()}
            finished_before = len(plan.cells) - len(flops)
            progress.begin(len(plan.cells), finished_before, unit="cells", work=sum(work.values()))
            for finished in chain(
                schedule(
                    cells,
                    executor,
                    selected={cell: record.selected for cell, record in records.items()},
                    started=lambda cell: progress.started(str(cell)),
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
                failed = record.status in ("failed", "diverged")
                progress.finished(summarise(record), work=work[record.cell], failed=failed)
        finally:
            progress.end()
            ledger.close()
    return [records[cell] for cell in plan.cells]


def _start(prepared: Prepared, runner: Runner, jobs: int) -> tuple[Executor, list[str]]:
    """Start the requested executor, and return it with notes for the user."""
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
