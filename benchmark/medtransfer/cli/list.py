"""`bench list`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from medtransfer.cli.options import DataOption, JsonOption, TaskFolderOption, find_data


class Kind(StrEnum):
    """Lists of `bench list`."""

    tasks = "tasks"
    encoders = "encoders"
    suites = "suites"
    scores = "scores"
    protocols = "protocols"


def list_(
    kind: Annotated[Kind, typer.Argument(help="Kind of list.")],
    tasks: TaskFolderOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, encoders, suites, transferability scores or protocols."""
    from medtransfer.cli.catalogue import listing
    from medtransfer.cli.tables import print_rows

    print_rows(*listing(kind.value, folder=tasks, data=find_data(data)), as_json=as_json)
    if kind is Kind.tasks and not as_json:
        print("Tasks from MedMNIST files also exist at other sizes, such as pneumonia_28.")
