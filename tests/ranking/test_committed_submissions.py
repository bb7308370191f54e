"""The committed submissions: ranks, scores and intervals stay those of the first day."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medtransfer.ranking import load_submissions, shipped_boards
from tests.conftest import ROOT

# Written from the same submissions by the code of commit 9bf3112, before the house was rebuilt.
GOLDEN = ROOT / "tests" / "golden" / "boards-1.npz"
WORDS = ("status", "contamination")


def numbers(prefix: str, table: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """The columns of numbers of a table as float64, null being NaN."""
    return {
        f"{prefix}/{name}": table[name].astype("Float64").to_numpy(np.float64, na_value=np.nan)
        for name in table.columns
        if pd.api.types.is_numeric_dtype(table[name].dtype)
    }


@pytest.fixture(scope="module")
def boards() -> dict[str, NDArray[Any]]:
    """Every number of every board of the committed submissions."""
    arrays: dict[str, NDArray[Any]] = {}
    for board in shipped_boards(load_submissions([ROOT / "submissions"])):
        key = "_".join(filter(None, (board.protocol, board.suite, board.kind)))
        arrays[f"{key}/encoders"] = board.table.index.to_numpy().astype("U")
        for name in WORDS:
            arrays[f"{key}/table/{name}"] = board.table[name].fillna("").to_numpy().astype("U")
        arrays |= numbers(f"{key}/table", board.table)
        arrays |= numbers(f"{key}/results", board.results[["mean", "std", "low", "high"]])
        arrays |= numbers(f"{key}/scores_by_task", board.judgement.tasks)
        arrays |= numbers(f"{key}/scores", board.judgement.summary)
    return arrays


def test_ranks_scores_and_intervals_stay(boards: dict[str, NDArray[Any]]) -> None:
    """Records, cards, scores and verifications of today give the same numbers, to rounding.

    On one machine they are the same to the last bit; sums of other processors may differ there.
    """
    with np.load(GOLDEN) as golden:
        assert set(boards) == set(golden)
        for name in golden:
            if golden[name].dtype.kind == "U":
                np.testing.assert_array_equal(boards[name], golden[name], err_msg=name)
            else:
                np.testing.assert_allclose(
                    boards[name], golden[name], rtol=1e-12, atol=1e-15, err_msg=name
                )
