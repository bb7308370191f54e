"""Eligibility: the cells that a board expects, and the records that count on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite


def expected_cells(
    suite: Suite, kinds: Mapping[str, str], protocol: Protocol, *, optional: bool = False
) -> list[Cell]:
    """List the cells that an encoder needs in order to be ranked, in the protocol's order.

    Args:
        suite: The tasks.
        kinds: Kind of each task; one that nobody ran may be missing, nobody is complete then.
        protocol: The protocol.
        optional: The cells of the optional adaptations instead.
    """
    return [
        Cell(task, budget, adaptation, draw)
        for task, kind in ((task, kinds.get(task, "multiclass")) for task in suite.tasks)
        for adaptation in (protocol.optional(kind) if optional else protocol.adaptations(kind))
        for budget, draws in protocol.budgets(adaptation, kind).items()
        if suite.budgets is None or budget in suite.budgets
        for draw in range(draws)
    ]


def is_current(records: pd.DataFrame, protocol: Protocol | None) -> NDArray[np.bool_]:
    """Mark the records made under the present version of the protocol."""
    fingerprints = protocol.fingerprints if protocol else {}
    now = [(*pair, fingerprint) for pair, fingerprint in fingerprints.items()]
    return is_any(records, ["kind", "adaptation", "protocol_fingerprint"], now)


def is_any(
    records: pd.DataFrame, columns: list[str], wanted: Iterable[tuple[str, ...]]
) -> NDArray[np.bool_]:
    """Mark the records with one of the wanted combinations of names in these columns."""
    keys = records[columns].drop_duplicates()
    given = set(wanted)
    keys = keys.assign(there=[key in given for key in keys.itertuples(index=False, name=None)])
    return records[columns].merge(keys, how="left", on=columns)["there"].to_numpy(bool)


def applicable(cells: Iterable[Cell], records: pd.DataFrame) -> list[Cell]:
    """Drop the cells that a record declares not applicable.

    That is decided from the task card alone, so one encoder's record holds for all.
    """
    skipped = records.loc[records["status"] == "not_applicable", list(Cell._fields)]
    skip = set(skipped.itertuples(index=False, name=None))
    return [cell for cell in cells if cell not in skip]
