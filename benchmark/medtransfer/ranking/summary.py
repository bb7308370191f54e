"""The end of an evaluation: this encoder beside those that have the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import pandas as pd

from medtransfer.ranking.frame import IN_DOMAIN, frame
from medtransfer.ranking.submissions import Submission
from medtransfer.ranking.table import (
    applicable,
    average,
    cell_scores,
    expected_fingerprints,
    grid,
    totals,
)
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell

__all__ = ["summary"]


def summary(
    submissions: Sequence[Submission],
    *,
    cells: AbstractSet[Cell],
    protocol: Protocol,
    fingerprints: Mapping[str, str],
) -> pd.DataFrame:
    """Compare the encoders that have all ``cells``; the others are left out.

    Args:
        submissions: The encoders.
        cells: What was just evaluated; cells that do not apply may be among them.
        protocol: The protocol it was evaluated under.
        fingerprints: The fingerprint of each task of ``cells``.

    Returns:
        Best first: encoder, in_domain and out_of_domain (scores as on the board, over ``cells``
        alone), one column per task (mean primary metric in-domain) and adaptation_flops.
    """
    rows = frame(submissions)
    same_protocol = rows["protocol_fingerprint"] == expected_fingerprints(rows, protocol)
    same_task = rows["fingerprint"] == rows["task"].map(dict(fingerprints))
    rows = rows[same_protocol & same_task]
    wanted = applicable(sorted(cells), rows)
    table = cell_scores(grid(rows, wanted, encoders=sorted(rows["encoder"].unique())))
    means = average(table, "value", by="task")
    compared = pd.DataFrame({"in_domain": average(table, IN_DOMAIN)})
    compared["out_of_domain"] = average(table[table["elsewhere"]], "out_of_domain")
    for task in dict.fromkeys(cell.task for cell in wanted):
        own = means[means.index.isin([task], level="task")]
        compared[task] = own.droplevel(["domain", "task"])
    compared["adaptation_flops"] = totals(table, "adaptation_flops")
    complete = compared[compared["in_domain"].notna()].rename_axis("encoder").reset_index()
    return complete.sort_values(
        ["in_domain", "encoder"], ascending=[False, True], ignore_index=True
    )
