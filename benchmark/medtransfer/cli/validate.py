"""`bench validate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medtransfer.cli.options import DataOption, find_data


def validate(
    path: Annotated[
        Path, typer.Argument(help="A card, a submission, or a folder of cards or submissions.")
    ],
    data: DataOption = None,
) -> None:
    """Check that task cards, encoder cards and submissions are complete and well-formed."""
    from medtransfer.core.errors import InputError, plain
    from medtransfer.verification.validation import validate as check

    faults = 0
    for line in check(path, data=find_data(data)):
        if isinstance(line, InputError):
            faults += 1
            print(f"error: {plain(str(line))}", file=sys.stderr)
        else:
            print(line)
    if faults:
        raise typer.Exit(2)
