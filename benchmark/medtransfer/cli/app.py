"""`bench`: parse, call, print. What it does is in the Python API."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medtransfer.cli import results
from medtransfer.cli.pretrain import pretrain
from medtransfer.cli.results import DataOption, TasksOption, find_data
from medtransfer.cli.score import score
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

TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="<str>", help="Only this task; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# What the system says of paths that are not ours or not possible; like a full disk no fault of
# this code, wherever it is met.
_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}


def main() -> None:
    """Run the command line; wrong input is one line and exit code 2."""
    from medtransfer.core.errors import DISK, InputError, RunError

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
        # typer's of the options: click's classes once, and its own since it brings click along.
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
    """One line about wrong options; or the help, where a command is called with nothing."""
    text: str = error.format_message()
    if text.startswith("Usage:"):
        return text
    text = " ".join(text.replace("Value error, ", "").replace("Input should", "should").split())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bench"
    return f"error: {text.removesuffix('.')}; {command} -h shows what there is"


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


@app.command()
def evaluate(
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            "-e",
            help="A name (bench list encoders), timm:NAME, hf-hub:OWNER/NAME, a .pt, .pth or "
            ".safetensors file, a folder with encoder.yaml, or a .py file that registers one.",
        ),
    ],
    architecture: Annotated[
        str | None, typer.Option(help="timm's name of a checkpoint's architecture.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Named list of tasks. Default: phantom, or all cards of --tasks."),
    ] = None,
    task: TaskOption = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>", help="Only this budget, 10-shot or full, say; may be repeated."
        ),
    ] = None,
    adaptation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>", help="Only this adaptation, knn or finetune, say; may be repeated."
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="v1 (the benchmark), quick (two cores), or medmnist (a recipe).")
    ] = "v1",
    out: Annotated[Path, typer.Option(help="Folder of submissions.")] = Path("submissions"),
    data: DataOption = None,
    tasks: TasksOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="<int>",
            help="Processes. Default: one on a GPU, else as suits the machine.",
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option(help="local, or ray: the cells run on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="With ray: of the cluster. Default: RAY_ADDRESS, or one started on this machine."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells, their FLOPs and a time; run none.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Forget this encoder's earlier records in --out of what is asked for."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Evaluate an encoder: probe and fine-tune it on every task of a suite."""
    from medtransfer.cli import console
    from medtransfer.evaluation.evaluate import run
    from medtransfer.evaluation.request import Request, prepare

    request = Request(
        encoder=encoder,
        architecture=architecture,
        suite=suite,
        tasks=tuple(task or ()),
        budgets=tuple(budget or ()),
        adaptations=tuple(adaptation or ()),
        protocol=protocol,
        out=out,
        data=data,
        task_folder=tasks,
        device=device,
        jobs=jobs,
        fresh=fresh,
        executor=executor,
        address=address,
    )
    try:
        with console.ConsoleData() as progress:
            prepared = prepare(request, progress, fetch=not dry_run)
    except KeyboardInterrupt:
        raise _interrupted() from None
    for note in prepared.notes:
        print(f"note: {note}")
    if dry_run:
        from medtransfer.evaluation.estimate import estimate

        console.print_estimate(estimate(prepared))
        return
    if not prepared.pending:
        print(f"all {len(prepared.cells)} cells are there already")
    try:
        show = sys.stderr.write if debug else None
        records = run(prepared, console.ConsoleProgress(), on_failure=show)
    except KeyboardInterrupt:
        raise _interrupted(", without --fresh," if fresh else "") from None
    console.print_evaluation(prepared, records)
    if any(record.status == "failed" for record in records):
        raise typer.Exit(1)


def _interrupted(but: str = "") -> typer.Exit:
    print(f"interrupted; the same command{but} goes on where it stopped", file=sys.stderr)
    return typer.Exit(130)


app.command()(pretrain)
app.command()(score)
app.command()(results.leaderboard)
app.command()(results.compare)


class Kind(StrEnum):
    """What `bench list` lists."""

    tasks = "tasks"
    encoders = "encoders"
    suites = "suites"
    scores = "scores"
    protocols = "protocols"


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    tasks: TasksOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, encoders, suites, transferability scores or protocols."""
    from medtransfer.cli.catalogue import listing

    _print_rows(listing(kind.value, folder=tasks, data=find_data(data)), as_json)
    if kind is Kind.tasks and not as_json:
        print("Tasks of MedMNIST's files come in its other sizes too, such as pneumonia_28.")


@app.command()
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
        typer.Option("--predictions", help="Draw the predicted masks of a submission, as PNG."),
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="<str>", help="With --predictions: only this task; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --predictions: where to; default is sheets/<encoder>."),
    ] = None,
    tasks: TasksOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one card, suite, score or protocol; of a task also its splits and what budgets apply.

    With --predictions: draw each segmentation cell of a submission, with the worst, the middling
    and the best predicted masks of every test split.
    """
    from medtransfer.core.errors import InputError

    if predictions:
        if as_json:
            raise InputError("--json: not with --predictions, which makes pictures")
        _show_predictions(Path(name), task or [], out=out, tasks=tasks, data=find_data(data))
        return
    if task or out is not None:
        raise InputError(f"{'--task' if task else '--out'}: only with --predictions")
    from medtransfer.cli.catalogue import find

    card: dict[str, Any] = find(name, folder=tasks, data=find_data(data))
    if as_json:
        print(json.dumps(card, indent=2, ensure_ascii=False))
    else:
        import yaml

        print(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=100), end="")


def _show_predictions(
    folder: Path, names: list[str], *, out: Path | None, tasks: Path | None, data: Path | None
) -> None:
    from medtransfer.cli import console
    from medtransfer.contact_sheets.drawing import save_sheet
    from medtransfer.contact_sheets.selection import read_sheets

    with console.ConsoleData() as progress:
        encoder, sheets = read_sheets(
            folder, names=names, task_folder=tasks, data=data, progress=progress
        )
    for sheet in sheets:
        path = save_sheet(sheet, out or Path("sheets") / encoder)
        means = ", ".join(f"{band.name} {band.mean}" for band in sheet.bands)
        print(f"{path}: mean Dice over images: {means}")


app.command()(results.validate)
app.command()(results.verify)
app.command("import")(results.import_)

data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The official files: list and fetch them."
)
app.add_typer(data_app, name="data")

SuiteOption = Annotated[str | None, typer.Option(help="The tasks of this suite.")]


@data_app.command("list")
def list_data(
    suite: SuiteOption = None,
    task: TaskOption = None,
    tasks: TasksOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the official files: which are there, where, how large, under which licence."""
    from medtransfer.cli.catalogue import list_files

    cards = _chosen(suite, task, tasks)
    _print_rows(list_files(cards, find_data(data)), as_json)
    if not as_json:
        from medtransfer.data.files.cache import cache_folder

        places = [str(place) for place in (find_data(data), cache_folder() / "downloads") if place]
        print(f"looked for in: {', then '.join(places)}; checked when they are used or fetched")


@data_app.command("fetch")
def fetch_data(
    suite: SuiteOption = None,
    task: TaskOption = None,
    tasks: TasksOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Download into this folder; default is the cache."),
    ] = None,
) -> None:
    """Download the official files that are missing, and check those that are there."""
    from medtransfer.cli import console
    from medtransfer.core.errors import InputError, unwritable
    from medtransfer.data.files.download import obtain
    from medtransfer.data.survey import survey_files

    if suite is None and not task and tasks is None:
        raise InputError("name what to fetch: --suite, --task or --tasks")
    cards = _chosen(suite, task, tasks).values()
    try:
        if data is not None:
            data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"--data: {data}", error) from None
    files = [found.file for card in cards for found in survey_files(card, find_data(data))]
    if not files:
        print("nothing to download: these tasks need no published file")
    try:
        with console.ConsoleData() as progress:
            for file in dict.fromkeys(files):
                print(
                    f"{obtain(file, find_data(data), progress, into=data)}: complete, MD5 is right"
                )
    except KeyboardInterrupt:
        raise _interrupted() from None


def _chosen(suite: str | None, task: list[str] | None, tasks: Path | None) -> dict[str, Any]:
    """The cards that a `bench data` command speaks of: all, when it names none."""
    from medtransfer.specs.task import load_tasks, resolve_tasks

    if suite is None and not task and tasks is None:
        return dict(load_tasks())
    return dict(resolve_tasks(names=task or [], suite=suite, folder=tasks))


def _print_rows(table: tuple[tuple[str, ...], list[tuple[str, ...]]], as_json: bool) -> None:
    from medtransfer.cli import console

    head, rows = table
    if as_json:
        print(json.dumps([dict(zip(head, row, strict=True)) for row in rows], indent=2))
    else:
        console.print_table(head, rows)
