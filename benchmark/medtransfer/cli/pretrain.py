"""`bench pretrain`: make encoders."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from medtransfer.cli.results import DataOption, TasksOption, given_options

__all__ = ["pretrain"]


def pretrain(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Option(help="supervised, simclr, simmim, or the .yaml file of your own."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="<str>", help="Source: its training images; may be repeated."
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Go on from this encoder; as bench evaluate --encoder.")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(help="Start from random weights: timm's name, or a listed encoder's."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="<int>", help="Passes. Default: the recipe's.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="<n>", help="Use only so many images, or this fraction; fewer are among more."
        ),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="See every class equally often.")
    ] = False,
    trainable: Annotated[
        str,
        typer.Option(
            metavar="<str>",
            help="full; partial:STAGES (a number of deepest ones, or names of layers); or "
            "hybrid:STAGES:EPOCHS, partial for so many epochs and then full.",
        ),
    ] = "full",
    drop_stages: Annotated[
        int, typer.Option(metavar="<int>", help="Leave out so many of the deepest stages.")
    ] = 0,
    size: Annotated[
        int | None, typer.Option(metavar="<px>", help="Input size. Default: the encoder's.")
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(metavar="<list>", help="Also keep the encoder after these epochs: 0,1,5,20."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Make all encoders of this .yaml file, and evaluate them.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The encoder's folder, and its name. Default: encoders/<what it is>."),
    ] = None,
    data: DataOption = None,
    tasks: TasksOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(metavar="<int>", help="Share each step; a node's.")] = 1,
    nodes: Annotated[int, typer.Option(metavar="<int>", help="Machines.")] = 1,
    accumulate: Annotated[
        int, typer.Option(metavar="<int>", help="A step's images go through in so many parts.")
    ] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete what an earlier run left in --out.")
    ] = False,
) -> None:
    """Pre-train an encoder; bench evaluate takes the folder that it writes."""
    from medtransfer.cli import console
    from medtransfer.cli.console_pretraining import ConsolePretraining, print_costs
    from medtransfer.core.errors import InputError, RunError
    from medtransfer.pretraining.plan import Request, finished_card
    from medtransfer.pretraining.preparation import prepare

    try:
        if grid is not None:
            _refuse_beside_grid(context)
            _run_grid(grid, data=data, tasks=tasks, device=device)
            return
        if recipe is None:
            from medtransfer.specs.pretraining import list_recipes

            raise InputError(f"--recipe: name one of {', '.join(list_recipes())}, or --grid")
        request = Request(
            recipe=recipe,
            tasks=tuple(task or ()),
            init=init,
            architecture=architecture,
            epochs=epochs,
            images=_read_images(images),
            balanced=balanced,
            trainable=trainable,
            drop_stages=drop_stages,
            size=size,
            checkpoints=_read_epochs(checkpoints),
            out=out,
            data=data,
            task_folder=tasks,
            device=device,
            devices=devices,
            nodes=nodes,
            accumulate=accumulate,
            fresh=fresh,
        )
        with console.ConsoleData() as progress:
            plan = prepare(request, progress)
        card = finished_card(plan)
        if card is not None:
            print(f"{plan.folder}: there already")
        else:
            from medtransfer.pretraining.training import pretrain as train

            card = train(plan, ConsolePretraining())
    except KeyboardInterrupt:
        without = ", without --fresh," if fresh else ""
        print(f"interrupted; the same command{without} goes on where it stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    except (InputError, RunError) as error:
        if _is_first():
            raise
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from None
    if _is_first():
        print_costs([card])
        print(f"bench evaluate --encoder {plan.folder}")


def _refuse_beside_grid(context: typer.Context) -> None:
    """A grid says for itself what is done; an option that would be passed over is refused."""
    from medtransfer.core.errors import InputError

    for name in given_options(context):
        if name not in ("--grid", "--data", "--tasks", "--device"):
            raise InputError(
                f"{name}: not with --grid, whose file says what is done; only --data, --tasks and "
                "--device go with it"
            )


def _is_first() -> bool:
    """Whether this is the process that speaks, of those that share a run."""
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _read_images(text: str | None) -> int | float | None:
    from medtransfer.core.errors import InputError

    if text is None:
        return None
    try:
        return int(text) if re.fullmatch("[0-9]{1,12}", text) else _fraction(float(text))
    except ValueError:
        raise InputError(
            f"--images: '{text}'; a number of images, or a fraction between 0 and 1, is expected"
        ) from None


def _fraction(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError
    return value


def _read_epochs(text: str | None) -> tuple[int, ...]:
    from medtransfer.core.errors import InputError

    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch(r"[0-9]{1,7}", part) for part in parts):
        raise InputError(f"--checkpoints: '{text}'; epochs such as 0,1,5,20 are expected")
    return tuple(sorted({int(part) for part in parts}))


def _run_grid(path: Path, *, data: Path | None, tasks: Path | None, device: str) -> None:
    from medtransfer.cli.console import ConsoleProgress
    from medtransfer.cli.console_pretraining import ConsolePretraining, print_costs
    from medtransfer.core.errors import InputError
    from medtransfer.pretraining.grid import Study, check_grid, load_grid

    loaded = load_grid(path)
    try:
        check_grid(loaded, tasks)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    study = Study(
        loaded,
        data=data,
        task_folder=tasks,
        device=device,
        training=ConsolePretraining,
        evaluating=ConsoleProgress,
        say=lambda line: print(line, flush=True),
    )
    finished = study.run()
    print_costs(finished.cards)
    for line in finished.failures:
        print(f"failed: {line}")
    if finished.failures:
        raise typer.Exit(1)
