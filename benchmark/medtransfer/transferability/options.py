"""Options of scoring, declared once. Imports little: the help of the command reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from medtransfer.core.options import (
    DataOption,
    DeviceOption,
    SuiteOption,
    TaskFolderOption,
    TasksOption,
)

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """Options of ``bench score``.

    Attributes:
        sources: Also score the tasks that encoders were pre-trained on; no option of the command.
    """

    encoders: Annotated[
        Sequence[str],
        Option(
            "--encoder",
            "-e",
            metavar="<str>",
            help="As for bench evaluate; may be repeated. Scores are validated over encoders.",
        ),
    ] = ()
    suite: SuiteOption = None
    tasks: TasksOption = ()
    scores: Annotated[
        Sequence[str],
        Option(
            "--score",
            metavar="<str>",
            help="Compute only this score, or one from your own .py file; may be repeated. The "
            "validation covers all scores.",
        ),
    ] = ()
    protocol: Annotated[
        str,
        Option(help="v1, quick or medmnist: sets input size, fixed values and outcomes."),
    ] = "v1"
    out: Annotated[
        Path, Option(help="Folder of submissions: scores are written there, outcomes read.")
    ] = Path("submissions")
    data: DataOption = None
    task_folder: TaskFolderOption = None
    device: DeviceOption = "auto"
    sweep: Annotated[
        bool,
        Option("--sweep", help="Also compute robustness at all levels, distances and margins."),
    ] = False
    sources: bool = False
