"""`bench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtransfer.cli.options import DataOption, TaskFolderOption, find_data


def verify(
    submission: Annotated[Path, typer.Argument(help="Folder, such as submissions/resnet18.")],
    data: DataOption = None,
    tasks: TaskFolderOption = None,
    rerun: Annotated[
        int, typer.Option(min=0, metavar="<int>", help="Number of cells to run again.")
    ] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="The evaluated encoder as given to bench evaluate, for a checkpoint its file. "
            "Needed where the submission holds no weights and the encoder is not installed.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="For --rerun: auto, cpu or cuda.")] = "auto",
) -> None:
    """Recompute the numbers of a submission, and print what does not agree."""
    from medtransfer.verification.checks import verify as check
    from medtransfer.verification.report import print_checks

    checks = check(
        submission,
        task_folder=tasks,
        data=find_data(data),
        rerun=rerun,
        encoder=encoder,
        device=device,
    )
    if print_checks(checks):
        raise typer.Exit(2)
