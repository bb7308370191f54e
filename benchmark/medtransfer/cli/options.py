"""Options of commands: shared ones, and those that a request declares."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from medtransfer.core.errors import InputError

__all__ = [
    "SUBMISSIONS",
    "JsonOption",
    "SubmissionsOption",
    "TaskListOption",
    "find_data",
    "read_request",
    "refuse_options",
    "resumable",
]

Request = TypeVar("Request")

SUBMISSIONS = Path("submissions")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SubmissionsOption = Annotated[
    list[Path] | None,
    typer.Option("--submissions", metavar="<path>", help="Folder of submissions; may be repeated."),
]
TaskListOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="<str>", help="Only this task; may be repeated."),
]


def read_request(
    request: Callable[..., Request],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the options that a request declares.

    Args:
        request: A dataclass. Its annotated fields become options; a sequence becomes an option
            that may be repeated, unless a parser reads it from one text.

    Returns:
        A decorator of a command, whose first parameter is the request.
    """
    hints = get_type_hints(request, include_extras=True)
    declared = fields(request)  # type: ignore[arg-type]
    options = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else _hide_empty(field.default),
            annotation=_annotate(hints[field.name]),
        )
        for field in declared
        if get_origin(hints[field.name]) is Annotated
    ]
    defaults = {field.name: field.default for field in declared}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            chosen = {}
            for option in options:
                value = values.pop(option.name)
                if value is None or value == []:
                    value = defaults[option.name]
                chosen[option.name] = tuple(value) if isinstance(value, list) else value
            command(request(**chosen), **values)

        own = [*signature(command, eval_str=True).parameters.values()][1:]
        call.__signature__ = signature(command).replace(parameters=[*options, *own])  # type: ignore[attr-defined]
        return call

    return decorate


def _annotate(hint: Any) -> Any:
    """The annotation that typer understands: no sequences, and no unions of types."""
    kind, option = get_args(hint)
    assert isinstance(option, OptionInfo)
    if option.parser is not None:
        kind = str
    elif get_origin(kind) is Sequence:
        kind = list[get_args(kind)]  # type: ignore[misc]
    return Annotated[kind, option]


def _hide_empty(default: Any) -> Any:
    """No default where the help has none to show."""
    return None if default in ("", ()) else default


def refuse_options(context: typer.Context, *, allowed: Sequence[str], reason: str) -> None:
    """Refuse all options but some; environment variables count as given.

    Raises:
        InputError: For the first one that was given.
    """
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        given = source is not None and source.name != "DEFAULT"
        if given and option.opts[0] not in allowed:
            raise InputError(f"{option.opts[0]}: {reason}")


def find_data(data: Path | None) -> Path | None:
    """The folder with the data files: the option's, or that of the environment."""
    from medtransfer.data.files.cache import data_folder

    return data_folder(data)


@contextmanager
def resumable(*, fresh: bool = False) -> Iterator[None]:
    """Say how to resume after an interrupt, and end with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        how = ", without --fresh," if fresh else ""
        print(f"interrupted; run the same command again{how} to resume", file=sys.stderr)
        raise typer.Exit(130) from None
