"""`bench pretrain`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.options import read_request, refuse_options, resumable
from medtransfer.core.errors import InputError, RunError
from medtransfer.pretraining.options import Request

if TYPE_CHECKING:
    from medtransfer.specs.encoder import EncoderCard


@read_request(Request)
def pretrain(
    request: Request,
    *,
    context: typer.Context,
    grid: Annotated[
        Path | None, typer.Option(help="Train and evaluate all encoders of this .yaml file.")
    ] = None,
) -> None:
    """Pre-train an encoder; bench evaluate takes the folder that it writes."""
    try:
        with resumable(fresh=request.fresh):
            if grid is not None:
                allowed = ("--grid", "--data", "--tasks", "--device")
                reason = "not with --grid; only --data, --tasks and --device go with it"
                refuse_options(context, allowed=allowed, reason=reason)
                _run_grid(grid, request)
            else:
                _run(request)
    except (InputError, RunError) as error:
        if _is_first():
            raise
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from None


def _run(request: Request) -> None:
    from medtransfer.cli.progress import ConsoleProgress
    from medtransfer.pretraining.plan import finished_card
    from medtransfer.pretraining.preparation import prepare
    from medtransfer.specs.pretraining import list_recipes

    if not request.recipe:
        raise InputError(f"--recipe: name one of {', '.join(list_recipes())}, or use --grid")
    with ConsoleProgress() as progress:
        plan = prepare(request, progress)
    card = finished_card(plan)
    if card is not None:
        print(f"{plan.folder}: finished already")
    else:
        from medtransfer.pretraining.training import pretrain as train

        card = train(plan, progress)
    if _is_first():
        _print_costs([card])
        print(f"bench evaluate --encoder {plan.folder}")


def _run_grid(path: Path, request: Request) -> None:
    from medtransfer.cli.progress import ConsoleProgress
    from medtransfer.pretraining.grid import Study, check_grid, load_grid

    grid = load_grid(path)
    try:
        check_grid(grid, request.task_folder)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    study = Study(
        grid,
        data=request.data,
        task_folder=request.task_folder,
        device=request.device,
        progress=ConsoleProgress(),
    )
    study.run()
    _print_costs(study.cards)
    for line in study.failures:
        print(f"failed: {line}")
    if study.failures:
        raise typer.Exit(1)


def _is_first() -> bool:
    """Check whether this is the process of a shared run that prints."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _print_costs(cards: Sequence[EncoderCard]) -> None:
    """Print the cost of each pre-training run, one row for each encoder."""
    from medtransfer.cli.tables import print_table
    from medtransfer.ranking import quantity

    head = ("encoder", "trained", "images seen", "FLOPs", "time", "s a step", "memory")
    rows = [
        (
            card.name,
            card.trained,
            f"{run.images_seen:,}",
            quantity(run.flops, "FLOP"),
            quantity(run.seconds, "seconds"),
            f"{run.seconds / run.steps:.3f}" if run.steps else "-",
            quantity(run.peak_memory_bytes or float("nan"), "bytes"),
        )
        for card in cards
        if (run := card.pretraining.run) is not None
    ]
    print_table(head, rows)
