"""Summary of an evaluation: this encoder beside those that have the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter

import pandas as pd

from medtransfer.ranking.records.eligibility import applicable, is_any, is_current
from medtransfer.ranking.records.filling import fill_grid
from medtransfer.ranking.records.frame import join
from medtransfer.ranking.records.grid import average, total
from medtransfer.ranking.records.submissions import Submission
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.split_name import IN_DOMAIN


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
    order = ["in_domain", "encoder"]
    if not submissions:
        return pd.DataFrame(columns=["encoder", "in_domain"])
    frame = join(submissions)
    same = is_any(frame.cells, ["task", "fingerprint"], fingerprints.items())
    frame = frame.choose(frame.cells.index[same & is_current(frame.cells, protocol)])
    names = set(frame.cells["encoder"].unique())
    cards = {
        submission.card.name: submission.card
        for submission in submissions
        if submission.card.name in names
    }
    wanted = applicable(sorted(cells), frame.cells)
    grid = fill_grid(frame, wanted, cards)
    compared = pd.DataFrame({"in_domain": average(grid, IN_DOMAIN)})
    compared["out_of_domain"] = average(grid, "out_of_domain", where=itemgetter("out_of_domain"))
    compared = compared.join(average(grid, "value", by="task").T)
    compared["adaptation_flops"] = total(grid, "adaptation_flops")
    complete = compared[compared["in_domain"].notna()].rename_axis("encoder").reset_index()
    return complete.sort_values(order, ascending=[False, True], ignore_index=True)
