"""The commands of `bench`, and its exit codes."""

from __future__ import annotations

import errno
import sys
import traceback
from typing import Annotated, Any

import typer

from medtransfer.cli.compare import compare
from medtransfer.cli.data import data_app
from medtransfer.cli.evaluate import evaluate
from medtransfer.cli.import_ import import_
from medtransfer.cli.leaderboard import leaderboard
from medtransfer.cli.list import list_
from medtransfer.cli.pretrain import pretrain
from medtransfer.cli.score import score
from medtransfer.cli.show import show
from medtransfer.cli.validate import validate
from medtransfer.cli.verify import verify
from medtransfer.core.errors import DISK, InputError, RunError
from medtransfer.core.version import __version__

app = typer.Typer(
    name="bench",
    help="Does a pre-trained image encoder transfer to medical imaging, and at what cost?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Errors of forbidden or impossible paths: like a full disk, not bugs.
_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}


def main() -> None:
    """Run the command line; wrong input is one line and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except (InputError, RunError) as error:
        _print_error(str(error))
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if error.errno not in DISK | _PATH:
            raise
        _print_error(f"{error.filename or 'a file'}: {error.strerror}")
        sys.exit(2 if error.errno in _PATH else 1)
    except Exception as error:
        # Usage errors: their class is click's, or typer's own if it bundles click.
        if not hasattr(error, "format_message"):
            raise
        print(_explain_usage(error), file=sys.stderr)
        sys.exit(2)


def _print_error(line: str) -> None:
    """Print one line about the error that is handled; with ``--debug`` its traceback."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    else:
        print(f"error: {line}", file=sys.stderr)


def _explain_usage(error: Any) -> str:
    """Explain a usage error in one line, or return the help for a call without options."""
    text: str = error.format_message()
    if text.startswith("Usage:"):
        return text
    text = " ".join(text.replace("Value error, ", "").replace("Input should", "should").split())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bench"
    return f"error: {text.removesuffix('.')}; see {command} -h"


def _version(value: bool) -> None:
    if value:
        print(f"medtransfer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in (evaluate, pretrain, score, leaderboard, compare):
    app.command()(command)
app.command("list")(list_)
for command in (show, validate, verify):
    app.command()(command)
app.command("import")(import_)
app.add_typer(data_app, name="data")
