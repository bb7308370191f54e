"""The optional adaptations of an encoder beside the ranked ones."""

from __future__ import annotations

import pandas as pd

from medtransfer.ranking.columns import Unit
from medtransfer.ranking.frame import IN_DOMAIN, frame
from medtransfer.ranking.submissions import Submission
from medtransfer.ranking.table import LEVELS, applicable, average, cell_scores, grid
from medtransfer.ranking.text import quantity
from medtransfer.specs.protocol import OPTIONAL

__all__ = ["compare_adaptations", "compare_records", "tabulate"]

_COLUMNS: dict[str, tuple[str, Unit]] = {
    IN_DOMAIN: ("In-domain", "score"),
    "out_of_domain": ("Out-of-domain", "score"),
    "trainable_parameters": ("Trained parameters", "count"),
    "adaptation_flops": ("Adaptation FLOPs", "FLOP"),
    "seconds": ("Time", "seconds"),
}


def compare_adaptations(cells: pd.DataFrame) -> pd.DataFrame:
    """How an encoder's adaptations compare, over the tasks on which all of them were run.

    Args:
        cells: Table of :func:`medtransfer.ranking.table.cell_scores`.

    Returns:
        One row per encoder, kind of task, budget and adaptation, wherever an optional one was run:
        tasks (how many), draws (of each), in_domain and out_of_domain (scores, averaged as on the
        board),
        trainable_parameters (the most), adaptation_flops and seconds (sums).
    """
    rows = cells.reset_index()
    found = []
    for (encoder, kind, budget), group in rows.groupby(["encoder", "kind", "budget"], sort=False):
        scored = group[IN_DOMAIN].notna().groupby([group["adaptation"], group["task"]], sort=False)
        complete = scored.all().unstack(fill_value=False)
        complete = complete[complete.any(axis="columns")]
        tasks = complete.columns[complete.all()]
        if tasks.empty or not complete.index.isin(OPTIONAL).any():
            continue
        for adaptation in complete.index:
            own = group[group["task"].isin(tasks) & (group["adaptation"] == adaptation)]
            own = own.set_index(LEVELS)
            found.append(
                {
                    "encoder": encoder,
                    "kind": kind,
                    "budget": budget,
                    "adaptation": adaptation,
                    "tasks": len(tasks),
                    "draws": own.index.get_level_values("draw").nunique(),
                    IN_DOMAIN: average(own, IN_DOMAIN).get(encoder),
                    "out_of_domain": average(own[own["elsewhere"]], "out_of_domain").get(encoder),
                    "trainable_parameters": own["trainable_parameters"].max(),
                    "adaptation_flops": own["adaptation_flops"].sum(),
                    "seconds": own["seconds"].sum(),
                }
            )
    names = ["encoder", "kind", "budget", "adaptation", "tasks", "draws", *_COLUMNS]
    return pd.DataFrame(found, columns=names)


def compare_records(submission: Submission) -> pd.DataFrame:
    """The same of records of one protocol, one fingerprint a task, without a board."""
    rows = frame([submission])
    cells = applicable([record.cell for record in submission.records], rows)
    return compare_adaptations(cell_scores(grid(rows, cells, [submission.card.name])))


def tabulate(compared: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table for people; the first four columns are text."""
    names = ["encoder", "kind", "budget", "adaptation", "tasks", "draws"]
    rows = [
        [str(row[name]) for name in names]
        + [quantity(row[name], unit) for name, (_, unit) in _COLUMNS.items()]
        for row in compared.to_dict("records")
    ]
    titles = [title for title, _ in _COLUMNS.values()]
    return [*(name.capitalize() for name in names), *titles], rows
