"""Options of commands: shared ones, and those that a request declares."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from medtransfer.core.errors import InputError

Request = TypeVar("Request")

SUBMISSIONS = Path("submissions")

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder with the data files. Default: BENCH_DATA.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SubmissionsOption = Annotated[
    list[Path] | None,
    typer.Option("--submissions", metavar="<path>", help="Folder of submissions; may be repeated."),
]
TaskFolderOption = Annotated[
    Path | None, typer.Option("--tasks", help="Folder of your own task cards.")
]

# Options whose names do not follow from their fields.
_NAMES = {
    "encoder": ("--encoder", "-e"),
    "encoders": ("--encoder", "-e"),
    "task_folder": ("--tasks",),
}
# Defaults of fields for typer: the help omits empty ones.
_DEFAULTS = {MISSING: Parameter.empty, "": None, (): None}


def read_request(
    request: Callable[..., Request],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the fields of a request as options.

    The docstring of the request has their help. A sequence becomes an option in the singular that
    may be repeated, unless its annotation brings a parser that reads it from one text.

    Args:
        request: A dataclass.

    Returns:
        A decorator of a command, whose first parameter is the request.
    """
    hints = get_type_hints(request, include_extras=True)
    helps = dict(re.findall(r"^    (\w+): (.+(?:\n     .+)*)", getdoc(request) or "", re.MULTILINE))
    defaults = {field.name: field.default for field in fields(request)}  # type: ignore[arg-type]
    options = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=_DEFAULTS.get(default, default),
            annotation=_annotate(name, hints[name], " ".join(helps[name].split())),
        )
        for name, default in defaults.items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            given = {name: values.pop(name) for name in defaults}
            chosen = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in given.items()
                if value is not None
            }
            command(request(**chosen), **values)

        rest = [*signature(command, eval_str=True).parameters.values()][1:]
        call.__signature__ = Signature([*options, *rest])  # type: ignore[attr-defined]
        return call

    return decorate


def _annotate(name: str, hint: Any, text: str) -> Any:
    """Convert an annotation to one that typer supports, without sequences and unions."""
    flag = f"--{name.replace('_', '-')}"
    if get_origin(hint) is Annotated:
        parser = get_args(hint)[1]
        return Annotated[str, typer.Option(flag, parser=parser, metavar="<str>", help=text)]
    if get_origin(hint) is Sequence:
        hint, flag = list[get_args(hint)], flag.removesuffix("s")  # type: ignore[misc]
    kind = next((kind for kind in (int, str) if kind in (hint, *get_args(hint))), None)
    metavar = f"<{kind.__name__}>" if kind else None
    return Annotated[hint, typer.Option(*_NAMES.get(name, (flag,)), metavar=metavar, help=text)]


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
    """Return the data folder of the option, else of the environment."""
    from medtransfer.data.files.cache import data_folder

    return data_folder(data)


@contextmanager
def resumable(*, fresh: bool = False) -> Iterator[None]:
    """Print how to resume after an interrupt, and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        how = ", without --fresh," if fresh else ""
        print(f"interrupted; run the same command again{how} to resume", file=sys.stderr)
        raise typer.Exit(130) from None
