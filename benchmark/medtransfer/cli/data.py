"""`bench data`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medtransfer.cli.options import DataOption, JsonOption, find_data, read_request, resumable
from medtransfer.core.errors import InputError, unwritable

if TYPE_CHECKING:
    from medtransfer.specs.task import TaskCard

data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List and download the official data files."
)


@dataclass(frozen=True)
class Selection:
    """Options that select tasks.

    Attributes:
        suite: Only the tasks of this suite.
        tasks: Only this task; may be repeated.
        task_folder: Folder of your own task cards.
    """

    suite: str | None = None
    tasks: Sequence[str] = ()
    task_folder: Path | None = None

    @property
    def is_empty(self) -> bool:
        """Check that no option was given."""
        return self == Selection()

    def find_cards(self) -> dict[str, TaskCard]:
        """Load the cards of the selected tasks, by default of all shipped tasks."""
        from medtransfer.specs.task import load_tasks, resolve_tasks

        if self.is_empty:
            return dict(load_tasks())
        return resolve_tasks(names=list(self.tasks), suite=self.suite, folder=self.task_folder)


@data_app.command("list")
@read_request(Selection)
def list_data(
    selection: Selection, *, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List the official files with path, size and licence."""
    from medtransfer.cli.catalogue import list_files
    from medtransfer.cli.tables import print_rows
    from medtransfer.data.files.cache import cache_folder

    folder = find_data(data)
    print_rows(*list_files(selection.find_cards(), folder), as_json=as_json)
    if not as_json:
        places = [str(place) for place in (folder, cache_folder() / "downloads") if place]
        print(f"searched: {', then '.join(places)}; checksums are verified on use and on download")


@data_app.command("fetch")
@read_request(Selection)
def fetch_data(
    selection: Selection,
    *,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the downloads. Default: the cache."),
    ] = None,
) -> None:
    """Download missing official files, and verify the checksums of the others."""
    from medtransfer.cli.progress import ConsoleProgress
    from medtransfer.data.files.download import obtain
    from medtransfer.data.survey import survey_files

    if selection.is_empty:
        raise InputError("name what to fetch: --suite, --task or --tasks")
    cards = selection.find_cards().values()
    try:
        if data is not None:
            data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(f"--data: {data}", error) from None
    folder = find_data(data)
    files = dict.fromkeys(entry.file for card in cards for entry in survey_files(card, folder))
    if not files:
        print("nothing to download: these tasks need no published file")
    with resumable(), ConsoleProgress() as progress:
        for file in files:
            print(f"{obtain(file, folder, progress, into=data)}: complete, MD5 matches")
