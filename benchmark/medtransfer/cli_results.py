"""`bench`: the commands about results that are there: rank, compare, check, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DataOption",
    "TasksOption",
    "compare",
    "find_data",
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


def leaderboard(
    submissions: Annotated[
        list[Path] | None, typer.Option(help="Folder of submissions; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the leaderboard is written.")] = Path(
        "leaderboard"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the files would differ.")
    ] = False,
) -> None:
    """Rank the submissions: README.md, leaderboard.csv and the page index.html."""
    from medtransfer import ranking
    from medtransfer.specs.errors import InputError

    folders = submissions or [Path("submissions")]
    if not (found := ranking.load_submissions(folders)):
        raise InputError(
            f"{', '.join(map(str, folders))}: holds no submission (<encoder>/ folders)"
        )
    boards = ranking.shipped_boards(found)
    studies = [
        study for folder in folders for study in ranking.load_published(folder / ranking.PUBLISHED)
    ]
    cards = {submission.card.name: submission.card for submission in found}
    if check:
        differing = ranking.check_leaderboard(boards, out, cards=cards, studies=studies)
        if differing:
            raise InputError(
                f"{out}: out of date: {', '.join(differing)}; run `bench leaderboard` and commit"
            )
        print(f"{out} is up to date")
        return
    try:
        written = ranking.write_leaderboard(boards, out, cards=cards, studies=studies)
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written: {error.strerror}") from None
    for board in boards:
        only = f", {board.kind} only" if board.kind else ""
        ranked = int(board.table["rank"].notna().sum())
        print(
            f"protocol {board.protocol}, suite {board.suite}{only}: {ranked} of "
            f"{len(board.table)} encoders ranked"
        )
    for study in studies:
        print(f"published results of {study.study.name}: on a board of their own")
    print(f"wrote {', '.join(f'{out}/{name}' for name in written)}")
    if "index.html" not in written:
        print("index.html needs the extra page: pip install 'medtransfer[page]'")


def compare(
    first: Annotated[str, typer.Argument(help="An encoder with a submission.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    submissions: Annotated[
        list[Path] | None, typer.Option(help="Folder of submissions; may be repeated.")
    ] = None,
) -> None:
    """Compare two encoders: paired differences with their intervals, for each view and task."""
    from medtransfer import console, ranking

    found = ranking.load_submissions(submissions or [Path("submissions")])
    for layout, differences in ranking.compare(found, first, second):
        console.print_differences(layout, differences, (first, second))
    print(
        "Scores: 0 is chance, 1 is perfect, over the cells that both have. Intervals: paired "
        "bootstrap over\ntest items and few-shot draws, one by one; of twenty rows without a "
        "difference one will show one."
    )


def validate(
    path: Annotated[Path, typer.Argument(help="A card, a folder of cards, or a submission.")],
    data: DataOption = None,
) -> None:
    """Check a task card, an encoder card, a folder of cards or a submission."""
    from medtransfer.validation import validate as check

    for line in check(path, data=find_data(data)):
        print(line)


def verify(
    submission: Annotated[Path, typer.Argument(help="Its folder, such as submissions/resnet18.")],
    data: DataOption = None,
    tasks: TasksOption = None,
    rerun: Annotated[int, typer.Option(min=0, help="Run so many cells again.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for --rerun.")] = "auto",
) -> None:
    """Recompute the numbers of a submission, and print all that does not fit together."""
    from medtransfer.verification import checks

    found = checks.verify(
        submission, task_folder=tasks, data=find_data(data), rerun=rerun, device=device
    )
    if checks.print_checks(found):
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
    from medtransfer.ranking.published_import import import_results, write_study

    imported = import_results(csv, mapping)
    folder = write_study(imported, mapping, out)
    for note in imported.notes:
        print(f"note: {note}")
    study = imported.study
    print(
        f"wrote {len(imported.records)} records of {len(study.encoders)} encoders on "
        f"{len(study.targets)} targets to {folder}"
    )


def find_data(data: Path | None) -> Path | None:
    """Where files are looked for."""
    from medtransfer.data.cache import data_folder

    return data_folder(data)
