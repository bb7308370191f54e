"""`bench`: the commands about results that are there: rank, compare, check, import."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.status import Status

if TYPE_CHECKING:
    from medtransfer.ranking import Submission

__all__ = [
    "DataOption",
    "TasksOption",
    "compare",
    "find_data",
    "given_options",
    "import_",
    "leaderboard",
    "validate",
    "verify",
]

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Where the cards' files are looked for (BENCH_DATA).")
]
TasksOption = Annotated[
    Path | None, typer.Option("--tasks", help="Folder of task cards of your own.")
]


SubmissionsOption = Annotated[
    list[Path] | None,
    typer.Option("--submissions", metavar="<path>", help="Folder of submissions; may be repeated."),
]


def leaderboard(
    submissions: SubmissionsOption = None,
    out: Annotated[Path, typer.Option(help="Where the leaderboard is written.")] = Path(
        "leaderboard"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the files would differ.")
    ] = False,
) -> None:
    """Rank the submissions: README.md, figures/, leaderboard.csv and the page index.html."""
    from medtransfer import ranking

    with ranking.without_collection(), Console(stderr=True).status("Reading") as status:
        lines = _rank(submissions or [Path("submissions")], out, check=check, status=status)
    print("\n".join(lines))


def _rank(folders: Sequence[Path], out: Path, *, check: bool, status: Status) -> list[str]:
    """Do what `leaderboard` is asked for, and return what to say."""
    from medtransfer import ranking
    from medtransfer.core.errors import InputError, unwritable

    processes = os.cpu_count() or 1
    found = ranking.load_submissions(folders, processes=processes)
    studies = [
        study for folder in folders for study in ranking.load_published(folder / ranking.PUBLISHED)
    ]
    if not (found or studies):
        raise InputError(
            f"{', '.join(map(str, folders))}: holds no submission (<encoder>/ folders) and no "
            f"published study ({ranking.PUBLISHED}/<study>/ folders)"
        )
    status.update("Ranking")
    boards = ranking.shipped_boards(found, processes=processes)
    cards = {submission.card.name: submission.card for submission in found}
    status.update("Writing")
    lines = _note_merged(found)
    missing = "" if ranking.has_charts() else f"; without the page and the figures, {_EXTRA}"
    if check:
        differing = ranking.check_leaderboard(boards, out, cards=cards, studies=studies)
        if differing:
            raise InputError(
                f"{out}: out of date: {', '.join(differing)}; run `bench leaderboard` and commit"
            )
        return [*lines, f"{out} is up to date{missing}"]
    try:
        written = ranking.write_leaderboard(boards, out, cards=cards, studies=studies)
    except OSError as error:
        raise unwritable(f"--out: {out}", error) from None
    for board in boards:
        only = f", {board.kind} only" if board.kind else ""
        ranked = int(board.table["rank"].notna().sum())
        lines.append(
            f"protocol {board.protocol}, suite {board.suite}{only}: {ranked} of "
            f"{len(board.table)} encoders ranked"
        )
    lines += [
        f"published results of {study.study.name}: on a board of their own" for study in studies
    ]
    files = [name for name in written if "/" not in name]
    pictures = sum(name.endswith(".svg") for name in written)
    drawn = f" and {pictures} figures" if pictures else ""
    return [*lines, f"wrote {', '.join(f'{out}/{name}' for name in files)}{drawn}{missing}"]


def compare(
    first: Annotated[str, typer.Argument(help="An encoder with a submission.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    submissions: SubmissionsOption = None,
) -> None:
    """Compare two encoders: paired differences with their intervals, for each view and task."""
    from medtransfer import ranking
    from medtransfer.cli import console

    folders = submissions or [Path("submissions")]
    found = ranking.load_submissions(folders)
    for line in _note_merged([one for one in found if one.card.name in (first, second)]):
        print(line)
    for layout, differences in ranking.compare(found, first, second):
        console.print_differences(layout, differences, (first, second))
    print(
        "* shown to be better: the interval of the difference does not contain 0. Scores: 0 is\n"
        "chance, 1 is perfect, over the cells that both have. Intervals: paired bootstrap over\n"
        "test items and few-shot draws, one by one; of twenty rows without a difference one will\n"
        "show one."
    )


def validate(
    path: Annotated[
        Path, typer.Argument(help="A card, a submission, or a folder of cards or submissions.")
    ],
    data: DataOption = None,
) -> None:
    """Check task cards, encoder cards and submissions: are they complete and well-formed?"""
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


def verify(
    submission: Annotated[Path, typer.Argument(help="Its folder, such as submissions/resnet18.")],
    data: DataOption = None,
    tasks: TasksOption = None,
    rerun: Annotated[
        int, typer.Option(min=0, metavar="<int>", help="Run so many cells again.")
    ] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="What was evaluated, as bench evaluate took it (of a checkpoint the file), where "
            "the submission holds no weights and the encoder is not installed.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for --rerun.")] = "auto",
) -> None:
    """Recompute the numbers of a submission, and print all that does not fit together."""
    from medtransfer.verification.checks import verify as check
    from medtransfer.verification.report import print_checks

    found = check(
        submission,
        task_folder=tasks,
        data=find_data(data),
        rerun=rerun,
        encoder=encoder,
        device=device,
    )
    if print_checks(found):
        raise typer.Exit(2)


def import_(
    csv: Annotated[Path, typer.Argument(help="Published results: one row a run and metric.")],
    mapping: Annotated[
        Path, typer.Option(help="The study's YAML: what the columns and names of the CSV are.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of published studies.")] = Path(
        "submissions/published"
    ),
) -> None:
    """Import published results: records of their own, ranked on their own board."""
    from medtransfer.ranking.published.csv_import import import_results, write_study

    imported = import_results(csv, mapping)
    folder = write_study(imported, mapping, out)
    for note in imported.notes:
        print(f"note: {note}")
    study = imported.study
    counts = {"record": imported.records, "encoder": study.encoders, "target": study.targets}
    records, encoders, targets = (
        f"{len(found)} {noun}{'s' if len(found) != 1 else ''}" for noun, found in counts.items()
    )
    print(f"wrote {records} of {encoders} on {targets} to {folder}")


_EXTRA = "which need the extra page: pip install 'medtransfer[page]'"


def _note_merged(submissions: Sequence[Submission]) -> list[str]:
    return [
        f"note: {one.card.name} is in {' and '.join(one.folders)}: taken as one, and of a cell "
        "that is in several the first"
        for one in submissions
        if len(one.folders) > 1
    ]


def given_options(context: typer.Context) -> list[str]:
    """The options that the user gave, as ``--name``; environment variables count."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source is not None and source.name != "DEFAULT"
    ]


def find_data(data: Path | None) -> Path | None:
    """Where files are looked for."""
    from medtransfer.data.files.cache import data_folder

    return data_folder(data)
