"""`medtransfer.evaluate`: from a request to records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core.errors import InputError
from medtransfer.evaluation.executors.processes import choose_jobs, start_server
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


def run(prepared: Prepared, progress: RunProgress | None = None) -> list[Record]:
    """Run the pending cells of a checked request.

    Returns:
        The records of all its cells, in the plan's order.
    """
    progress = progress or RunProgress()
    records = dict(prepared.existing)
    if not prepared.pending:
        prepared.ledger.mend(prepared.located.card)
    else:
        request = prepared.request
        jobs = 1
        if request.executor == "local":
            cells = len(prepared.pending)
            jobs = choose_jobs(request.jobs, device=request.device, cells=cells)
        if jobs > 1:
            start_server()
        # Here, and not above: a finished evaluation must not wait for torch.
        from medtransfer.evaluation.executors.local import build_runner, fit_plan, run_cells

        runner = build_runner(prepared)
        known = len(prepared.notes)
        prepared = fit_plan(prepared, runner)
        notes = [*prepared.notes[known:], *runner.encoder.notes]
        check_weights(prepared, runner.encoder.weights_sha256)
        flops = {cell: runner.flops(cell) for cell in prepared.pending}
        ledger = prepared.ledger
        keep = list(prepared.existing.values()) if request.fresh else None
        executor, note = _start(prepared, runner, jobs)
        with closing(executor):
            ledger.open(prepared.located.card, keep=keep)
            try:
                progress.begin(flops, len(prepared.cells), [*note, *notes])
                for finished in run_cells(prepared, runner, executor, started=progress.started):
                    record = ledger.append(
                        finished.record,
                        replicates=finished.replicates,
                        predictions=finished.predictions,
                    )
                    records[record.cell] = record
                    progress.finished(record)
            finally:
                progress.end()
                ledger.close()
    return [records[cell] for cell in prepared.cells]


def _start(prepared: Prepared, runner: Runner, jobs: int) -> tuple[Executor, list[str]]:
    """The executor that was asked for, and what the user should know of it."""
    request = prepared.request
    if request.executor == "ray":
        from medtransfer.evaluation.executors.ray import Cluster

        cluster = Cluster(prepared, runner, address=request.address, jobs=request.jobs)
        return cluster, [cluster.note]
    from medtransfer.evaluation.executors.local import Here, Processes

    if jobs == 1:
        return Here(runner), []
    note = f"{jobs} cells at a time, in processes of their own (--jobs)"
    return Processes(request, jobs), [note]
