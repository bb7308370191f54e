"""`medtransfer.evaluate`: from options to records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from medtransfer.core.progress import JobProgress
from medtransfer.evaluation.executors.processes import choose_jobs, start_server
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import Prepared, check_weights, prepare
from medtransfer.evaluation.summary import summarise
from medtransfer.specs.record import Record

if TYPE_CHECKING:
    from medtransfer.evaluation.executors.scheduling import Executor
    from medtransfer.evaluation.runner import Runner

__all__ = ["evaluate", "run"]

# Work that FLOPs do not show (reading, metrics, bootstrap), as FLOPs of a cell, for the bar.
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
        medtransfer.specs.base.InputError: When the input is wrong; nothing is written then.
    """
    return run(prepare(Request.of(locals())))


def run(prepared: Prepared, progress: JobProgress | None = None) -> list[Record]:
    """Run the pending cells of a checked request.

    Returns:
        The records of all its cells, in the plan's order.
    """
    progress = progress or JobProgress()
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
        check_weights(prepared, runner.encoder.state)
        flops = {cell: runner.flops(cell) for cell in prepared.pending}
        ledger = prepared.ledger
        keep = list(prepared.existing.values()) if request.fresh else None
        executor, note = _start(prepared, runner, jobs)
        with closing(executor):
            ledger.open(prepared.located.card, keep=keep)
            try:
                for text in (*note, *notes):
                    progress.warn(text)
                total, left = len(prepared.cells), len(flops)
                work = {cell: count + _OVERHEAD for cell, count in flops.items()}
                progress.begin(total, total - left, unit="cells", work=sum(work.values()))
                for finished in run_cells(
                    prepared, runner, executor, started=lambda cell: progress.started(str(cell))
                ):
                    record = ledger.append(
                        finished.record,
                        replicates=finished.replicates,
                        predictions=finished.predictions,
                    )
                    records[record.cell] = record
                    failed = record.status in ("failed", "diverged")
                    progress.finished(summarise(record), work=work[record.cell], failed=failed)
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
