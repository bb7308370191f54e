"""`bench evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.options import read_request, resumable
from medtransfer.evaluation.options import Request

if TYPE_CHECKING:
    import pandas as pd

    from medtransfer.evaluation.estimate import Estimate
    from medtransfer.evaluation.request import Prepared
    from medtransfer.ranking import Submission
    from medtransfer.specs.record import Record


@read_request(Request)
def evaluate(
    request: Request,
    *,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the cells, their FLOPs and the time; run nothing."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Evaluate an encoder: probe and fine-tune it on the tasks of a suite."""
    from medtransfer.cli.progress import ConsoleProgress
    from medtransfer.evaluation.evaluate import run
    from medtransfer.evaluation.request import prepare

    with resumable(), ConsoleProgress() as progress:
        prepared = prepare(request, progress, fetch=not dry_run)
    for note in prepared.notes:
        print(f"note: {note}")
    if dry_run:
        from medtransfer.evaluation.estimate import estimate

        _print_estimate(estimate(prepared))
        return
    if not prepared.pending:
        print(f"all {len(prepared.cells)} cells are finished already")
    with resumable(fresh=request.fresh):
        records = run(prepared, progress, on_failure=sys.stderr.write if debug else None)
    _print_evaluation(prepared, records)
    if any(record.status == "failed" for record in records):
        raise typer.Exit(1)


def _print_estimate(estimate: Estimate) -> None:
    """Print the cells that will run, their FLOPs and the expected time."""
    from medtransfer.cli.tables import print_table
    from medtransfer.ranking import quantity

    groups: dict[tuple[str, str, str], list[int | None]] = {}
    for cell, flops in estimate.flops.items():
        groups.setdefault((cell.task, cell.adaptation, cell.budget), []).append(flops)
    rows = [
        (
            *group,
            len(cells),
            "not applicable" if None in cells else quantity(sum(filter(None, cells)), "FLOP"),
        )
        for group, cells in groups.items()
    ]
    running = [flops for flops in estimate.flops.values() if flops is not None]
    for note in estimate.notes:
        print(f"note: {note}")
    print_table(("task", "adaptation", "budget", "draws", "adaptation FLOPs"), rows)
    print(
        f"{len(running)} of {estimate.total} cells to run, {quantity(sum(running), 'FLOP')}, about "
        f"{quantity(estimate.seconds, 'seconds')} on this machine"
    )


def _print_evaluation(prepared: Prepared, records: Sequence[Record]) -> None:
    """Print the encoder beside the shipped baselines, over the requested cells."""
    from medtransfer.cli.tables import print_table
    from medtransfer.core.documents import packaged
    from medtransfer.evaluation.failures import ERROR_LOG
    from medtransfer.ranking import Submission, compare_records, load_submissions, tabulate
    from medtransfer.specs.protocol import OPTIONAL

    card = prepared.encoder.card
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        print(f"failed: {record.cell}: {record.error}")
    if failed:
        print(f"tracebacks: {prepared.ledger.folder / ERROR_LOG}")
        print("no comparison: some cells failed; run the same command again to retry them")
    else:
        shipped = load_submissions([packaged("submissions")], tasks=prepared.data)
        shipped = [submission for submission in shipped if submission.card.name != card.name]
        _print_comparisons([*shipped, Submission.of(card, records)], prepared, records)
    cells = {record.cell: record for record in records}
    if any(cell.adaptation in OPTIONAL for cell in cells):
        # Records of the other adaptations may come from an earlier call.
        every = {**prepared.existing, **cells}.values()
        same_tasks = tuple(record for record in every if record.task.name in prepared.data)
        print_table(*tabulate(compare_records(Submission.of(card, same_tasks))))
    print(f"records: {prepared.ledger.path}")


def _print_comparisons(
    submissions: Sequence[Submission], prepared: Prepared, records: Sequence[Record]
) -> None:
    """Compare with encoders that have all the cells; then again on classification alone.

    The shipped baselines lack the optional adaptations, and some of them give no feature maps.
    """
    from medtransfer.ranking import summary
    from medtransfer.specs.protocol import OPTIONAL

    name, protocol = prepared.encoder.card.name, prepared.protocol
    cells = {record.cell: record.task.kind for record in records}
    chosen = {cell for cell in cells if cell.adaptation not in OPTIONAL} or set(cells)
    classes = {cell for cell in chosen if cells[cell] != "segmentation"}
    shown = 0
    for part, only in ((chosen, ""), (classes, ", classification only")):
        compared = summary(
            submissions,
            cells=part,
            protocol=protocol,
            fingerprints={task: data.fingerprint for task, data in prepared.data.items()},
        )
        if len(compared) > shown:
            beside = "beside the shipped baselines" if len(compared) > 1 else "alone"
            ran = ", ".join(dict.fromkeys(cell.adaptation for cell in cells if cell in part))
            title = f"{name} {beside}, protocol {protocol.name}{only}; means over {ran}"
            _print_comparison(compared, own=name, title=title)
        shown = max(shown, len(compared))
    if shown == 1:
        print("no comparison: no shipped baseline has all of these cells")
    print(
        "In-domain and out-of-domain: normalised score, 0 is chance and 1 is perfect. Tasks: "
        "in-domain AUROC (0.5 is chance), or Dice for segmentation."
    )


def _print_comparison(compared: pd.DataFrame, *, own: str, title: str) -> None:
    """Print an encoder among others, with its own row marked."""
    from medtransfer.cli.tables import print_table
    from medtransfer.ranking import quantity

    tasks = [
        name
        for name in compared.columns
        if name not in ("encoder", "in_domain", "out_of_domain", "adaptation_flops")
    ]
    head = ("encoder", "in-domain", "out-of-domain", *tasks, "adaptation")
    rows = [
        (
            f"{'>' if row['encoder'] == own else ' '} {row['encoder']}",
            *(quantity(row[name], "score") for name in ("in_domain", "out_of_domain", *tasks)),
            quantity(row["adaptation_flops"], "FLOP"),
        )
        for row in compared.to_dict("records")
    ]
    bold = [place for place, row in enumerate(rows) if row[0].startswith(">")]
    print_table(head, rows, title=title, numbers=True, bold=bold)
