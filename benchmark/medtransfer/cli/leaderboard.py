"""`bench leaderboard`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.options import SUBMISSIONS, SubmissionsOption

if TYPE_CHECKING:
    from rich.status import Status

    from medtransfer.ranking import Submission

_EXTRA = "; the page and the figures need: pip install 'medtransfer[page]'"


def leaderboard(
    submissions: SubmissionsOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the leaderboard.")] = Path("leaderboard"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the files are out of date.")
    ] = False,
) -> None:
    """Rank the submissions: README.md, figures/, leaderboard.csv and the page index.html."""
    from rich.console import Console

    from medtransfer import ranking

    with ranking.without_collection(), Console(stderr=True).status("Reading") as status:
        lines = _rank(submissions or [SUBMISSIONS], out, check=check, status=status)
    print("\n".join(lines))


def _rank(folders: Sequence[Path], out: Path, *, check: bool, status: Status) -> list[str]:
    """Write or check the leaderboard, and return the lines to print."""
    from medtransfer import ranking
    from medtransfer.core.errors import InputError, unwritable

    processes = os.cpu_count() or 1
    submissions = ranking.load_submissions(folders, processes=processes)
    studies = [
        study for folder in folders for study in ranking.load_published(folder / ranking.PUBLISHED)
    ]
    if not (submissions or studies):
        raise InputError(
            f"{', '.join(map(str, folders))}: holds no submission (<encoder>/ folders) and no "
            f"published study ({ranking.PUBLISHED}/<study>/ folders)"
        )
    status.update("Ranking")
    boards = ranking.shipped_boards(submissions, processes=processes)
    cards = {submission.card.name: submission.card for submission in submissions}
    status.update("Writing")
    lines = note_merged(submissions)
    missing = "" if ranking.has_charts() else _EXTRA
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
        f"published results of {study.study.name}: ranked on a separate board" for study in studies
    ]
    files = [name for name in written if "/" not in name]
    pictures = sum(name.endswith(".svg") for name in written)
    drawn = f" and {pictures} figures" if pictures else ""
    return [*lines, f"wrote {', '.join(f'{out}/{name}' for name in files)}{drawn}{missing}"]


def note_merged(submissions: Sequence[Submission]) -> list[str]:
    """Notes about submissions that several folders hold."""
    return [
        f"note: {each.card.name} is in {' and '.join(each.folders)}: merged; for a cell in several "
        "folders, the first folder counts"
        for each in submissions
        if len(each.folders) > 1
    ]
