"""Boards for tests of the page: hostile text, and many encoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from medtransfer.ranking import Board
from tests.helpers.boards import rank, submission

ATTACK = (
    '</script><script>hacked=1</script><img src=x onerror="hacked=1">|`x`\n=cmd()\u202e\u2028&amp;'
)


def many(count: int, *, tasks: int = 1) -> tuple[Board, list[str]]:
    """A board of many encoders: the tasks of one, so many times over, with other numbers."""
    one = rank(submission("a"))
    names = [f"encoder-{position:03d}" for position in range(count)]
    rng = np.random.default_rng(0)
    rows = [
        one.results.assign(encoder=name, task=one.results["task"] + "x" * copy)
        for name in names
        for copy in range(tasks)
    ]
    results = pd.concat(rows, ignore_index=True)
    for column in ("mean", "low", "high"):
        results[column] = rng.uniform(0.5, 1, len(results))
    table = pd.concat([one.table] * count).set_axis(pd.Index(names, name="encoder"))
    table["in_domain"] = np.sort(rng.uniform(0, 1, count))[::-1]
    table["rank"] = pd.array(range(1, count + 1), dtype="Int64")
    return replace(one, table=table, results=results), names
