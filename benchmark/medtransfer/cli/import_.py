"""`bench import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def import_(
    csv: Annotated[
        Path, typer.Argument(help="Published results: one row for each run and metric.")
    ],
    mapping: Annotated[
        Path, typer.Option(help="YAML of the study: meaning of the columns and names of the CSV.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of published studies.")] = Path(
        "submissions/published"
    ),
) -> None:
    """Import published results; they are ranked on a separate board."""
    from medtransfer.ranking.published.csv_import import import_results, write_study

    imported = import_results(csv, mapping)
    folder = write_study(imported, mapping, out)
    for note in imported.notes:
        print(f"note: {note}")
    study = imported.study
    counts = {"record": imported.records, "encoder": study.encoders, "target": study.targets}
    records, encoders, targets = (
        f"{len(items)} {noun}{'s' if len(items) != 1 else ''}" for noun, items in counts.items()
    )
    print(f"wrote {records} of {encoders} on {targets} to {folder}")
