"""The optional adaptations of an encoder beside the ranked ones."""

from __future__ import annotations

from operator import itemgetter

import numpy as np
import pandas as pd

from medtransfer.core.text import Unit, quantity
from medtransfer.ranking.records.eligibility import applicable
from medtransfer.ranking.records.filling import fill_grid
from medtransfer.ranking.records.frame import join
from medtransfer.ranking.records.grid import Grid, average, largest, total
from medtransfer.ranking.records.submissions import Submission
from medtransfer.specs.protocol import OPTIONAL
from medtransfer.specs.record import Cell
from medtransfer.specs.split_name import IN_DOMAIN

_COLUMNS: dict[str, tuple[str, Unit]] = {
    IN_DOMAIN: ("In-domain", "score"),
    "out_of_domain": ("Out-of-domain", "score"),
    "trainable_parameters": ("Trained parameters", "count"),
    "adaptation_flops": ("Adaptation FLOPs", "FLOP"),
    "seconds": ("Time", "seconds"),
}


def compare_adaptations(grid: Grid) -> pd.DataFrame:
    """Compare an encoder's adaptations over the tasks on which all of them were run.

    Args:
        grid: Results of the encoders.

    Returns:
        One row per encoder, kind of task, budget and adaptation, wherever an optional one was run:
        tasks (how many), draws (of each), in_domain and out_of_domain (scores, averaged as on the
        board), trainable_parameters (the most), adaptation_flops and seconds (sums).
    """
    groups = grid.groups
    present = ~np.isnan(grid.columns[IN_DOMAIN])
    ran = groups["adaptation"].where(pd.Series(present.any(axis=1)))
    found = []
    if ran.isin(OPTIONAL).any():
        for (kind, budget), part in groups.groupby(["kind", "budget"], sort=False):
            own = present[part.index]
            # Encoders with the same gaps have the same rows of the table.
            patterns, member = np.unique(own, axis=1, return_inverse=True)
            for number, pattern in enumerate(patterns.T):
                shared = _shared(part[pattern])
                names = [
                    name
                    for name, own in zip(grid.encoders, member.ravel(), strict=True)
                    if own == number
                ]
                for adaptation, rows in shared.groupby("adaptation", sort=False):
                    row = _summarise(grid.choose(rows.index.to_numpy(), names))
                    found.append(
                        row.assign(kind=str(kind), budget=str(budget), adaptation=str(adaptation))
                    )
    names = ["encoder", "kind", "budget", "adaptation", "tasks", "draws", *_COLUMNS]
    if not found:
        return pd.DataFrame(columns=names)
    return pd.concat(found)[names].sort_values("encoder", kind="stable", ignore_index=True)


def _shared(done: pd.DataFrame) -> pd.DataFrame:
    """Keep the groups of tasks with every adaptation; none without an optional adaptation."""
    if not done["adaptation"].isin(OPTIONAL).any():
        return done.iloc[:0]
    counts = done.groupby("task")["adaptation"].nunique()
    tasks = counts.index[counts == done["adaptation"].nunique()]
    return done[done["task"].isin(tasks)]


def _summarise(grid: Grid) -> pd.DataFrame:
    """Table of one adaptation at one budget, one row an encoder."""
    values = {
        IN_DOMAIN: average(grid, IN_DOMAIN),
        "out_of_domain": average(grid, "out_of_domain", where=itemgetter("out_of_domain")),
        "trainable_parameters": largest(grid, "trainable_parameters"),
        "adaptation_flops": total(grid, "adaptation_flops"),
        "seconds": total(grid, "seconds"),
    }
    table = pd.DataFrame({"encoder": grid.encoders, "tasks": len(grid.groups)})
    table["draws"] = int(grid.groups["draws"].max())
    return table.assign(**{name: value.to_numpy() for name, value in values.items()})


def compare_records(submission: Submission) -> pd.DataFrame:
    """Compare adaptations without a board: records of one protocol, one fingerprint a task."""
    frame = join([submission])
    names = list(Cell._fields)
    cells = [Cell(*key) for key in frame.cells[names].itertuples(index=False, name=None)]
    card = submission.card
    return compare_adaptations(fill_grid(frame, applicable(cells, frame.cells), {card.name: card}))


def tabulate(compared: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the printed table; the first four columns are text."""
    names = ["encoder", "kind", "budget", "adaptation", "tasks", "draws"]
    rows = [
        [str(row[name]) for name in names]
        + [quantity(row[name], unit) for name, (_, unit) in _COLUMNS.items()]
        for row in compared.to_dict("records")
    ]
    titles = [title for title, _ in _COLUMNS.values()]
    return [*(name.capitalize() for name in names), *titles], rows
