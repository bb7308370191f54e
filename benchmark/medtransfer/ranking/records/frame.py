"""The records of all encoders in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medtransfer.ranking.records.submissions import Submission, stack

# What boards and tables tell apart; labels that exclude each other or occur together are one.
KINDS = ("classification", "segmentation")


@dataclass(frozen=True)
class Frame:
    """The records of some encoders.

    Attributes:
        cells: One row a record: the columns of `Submission.cells`, and encoder.
        values: One row a test split of a record: the columns of `Submission.values`; cell is in the
            index of ``cells``, which counts from 0.
    """

    cells: pd.DataFrame
    values: pd.DataFrame

    def choose(self, rows: pd.Index[int]) -> Frame:
        """Only some rows of ``cells``, with their values."""
        number = np.full(len(self.cells), -1)
        number[rows] = np.arange(len(rows))
        values = self.values.assign(cell=number[self.values["cell"]])
        values = values[values["cell"] >= 0].reset_index(drop=True)
        return Frame(self.cells.loc[rows].reset_index(drop=True), values)


def join(submissions: Sequence[Submission]) -> Frame:
    """The records of all encoders, of at least one, sorted by encoder."""
    ordered = sorted(submissions, key=lambda submission: submission.card.name)
    cells, values = stack(ordered)
    sizes = [len(one.cells) for one in ordered]
    names = [one.card.name for one in ordered]
    encoder = pd.Categorical(np.repeat(np.array(names, dtype=object), sizes), sorted(set(names)))
    return Frame(cells.assign(encoder=encoder), values)


def most_common(cells: pd.DataFrame, column: str) -> dict[str, str]:
    """For every task the value of ``column`` that most records have; ties to the first by name."""
    counts = cells.groupby(["task", column], observed=True).size().reset_index(name="rows")
    counts = counts.astype({"task": object, column: object})
    counts = counts.sort_values(["task", "rows", column], ascending=[True, False, True])
    first = counts.drop_duplicates("task")
    return dict(zip(first["task"], first[column], strict=True))
