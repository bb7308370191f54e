"""`bench show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medtransfer.cli.options import DataOption, JsonOption, TaskFolderOption, find_data
from medtransfer.core.errors import InputError


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A task, an encoder, a suite, a score or a protocol; with --predictions the "
            "folder of a submission, such as results/resnet18."
        ),
    ],
    predictions: Annotated[
        bool,
        typer.Option("--predictions", help="Draw the predicted masks of a submission as PNG."),
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="<str>", help="With --predictions: only this task; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --predictions: folder of the PNG. Default: sheets/<encoder>."),
    ] = None,
    tasks: TaskFolderOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a card, suite, score or protocol; for a task also its splits and feasible budgets.

    With --predictions: draw each segmentation cell of a submission, with the worst, the median
    and the best predicted masks of every test split.
    """
    if predictions:
        if as_json:
            raise InputError("--json: not with --predictions, which draws pictures")
        _draw_predictions(Path(name), task or [], out=out, tasks=tasks, data=find_data(data))
        return
    if task or out is not None:
        raise InputError(f"{'--task' if task else '--out'}: only with --predictions")
    from medtransfer.cli.catalogue import find

    card = find(name, folder=tasks, data=find_data(data))
    if as_json:
        print(json.dumps(card, indent=2, ensure_ascii=False))
    else:
        import yaml

        print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100), end="")


def _draw_predictions(
    folder: Path, names: list[str], *, out: Path | None, tasks: Path | None, data: Path | None
) -> None:
    from medtransfer.cli.progress import ConsoleProgress
    from medtransfer.contact_sheets.drawing import save_sheet
    from medtransfer.contact_sheets.selection import read_sheets

    with ConsoleProgress() as progress:
        encoder, sheets = read_sheets(
            folder, names=names, task_folder=tasks, data=data, progress=progress
        )
    for sheet in sheets:
        path = save_sheet(sheet, out or Path("sheets") / encoder)
        means = ", ".join(f"{band.name} {band.mean}" for band in sheet.bands)
        print(f"{path}: mean Dice over images: {means}")
