"""Command-line options that several requests share.

A request is a frozen dataclass whose annotated fields are the options of one command: name, type,
default and help stand there and nowhere else. The command line reads them from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from typer import Option

__all__ = ["DataOption", "DeviceOption", "SuiteOption", "TaskFolderOption", "TasksOption"]

DataOption = Annotated[
    Path | None, Option("--data", help="Folder with the data files. Default: BENCH_DATA.")
]
DeviceOption = Annotated[str, Option(help="auto, cpu or cuda.")]
SuiteOption = Annotated[
    str | None, Option(help="Named list of tasks. Default: phantom, or all cards in --tasks.")
]
TaskFolderOption = Annotated[Path | None, Option("--tasks", help="Folder of your own task cards.")]
TasksOption = Annotated[
    Sequence[str], Option("--task", metavar="<str>", help="Only this task; may be repeated.")
]
