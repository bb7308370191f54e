"""Boards and cards as the page's JSON: compact, because hundreds of encoders share one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.core.text import MISSING
from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.boards.columns import spans
from medtransfer.ranking.predictions.predictions import tabulate_judgement, tabulate_tasks
from medtransfer.ranking.published.board import Published, published_board
from medtransfer.ranking.published.page import describe_study
from medtransfer.ranking.records.frame import IN_DOMAIN
from medtransfer.ranking.report.charts import chart_specifications
from medtransfer.ranking.report.site.cards import describe
from medtransfer.ranking.report.site.columns import page_columns
from medtransfer.ranking.statistics.rank_statistics import verdicts
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import OPTIONAL

__all__ = ["SCALE", "embed_json", "payload"]

SCALE = 30_000
"""Metrics are 16-bit whole numbers of 1 / SCALE; the lowest one is null."""

_NULL = -(2**15)
_CELL = ["task", "domain", "metric", "split", "adaptation", "budget"]
_STANDING = ["rank", "have", "expected", "error", "rank_low", "rank_high", "tie"]
_STANDING += ["rank_low_tasks", "rank_high_tasks", "in_domain_low", "in_domain_high"]
_STANDING += ["status", "contamination", "init", "trained"]

Json = dict[str, Any]


def payload(
    boards: Sequence[Board],
    cards: Mapping[str, EncoderCard],
    studies: Sequence[Published] = (),
) -> Json:
    """What ``data.js`` reads.

    Returns:
        encoders (cards, described), boards (with the indices of their encoders and of the series
        of each of their results; those of studies last, with encoders and series of their own),
        series (shared: a task stands on several boards), charts, and the names of the optional
        adaptations.
    """
    names = sorted({name for board in boards for name in board.table.index})
    pool: dict[str, int] = {}
    described = [_board(board, names, pool) for board in boards]
    return {
        "boards": described + [describe_study(published_board(study)) for study in studies],
        "encoders": [describe(cards[name]) for name in names],
        "series": [json.loads(text)[1] for text in pool],
        "charts": chart_specifications(),
        "optional": list(OPTIONAL),
        "scale": SCALE,
    }


def embed_json(value: Any) -> str:
    """JSON in ASCII that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _board(board: Board, names: Sequence[str], pool: dict[str, int]) -> Json:
    """Encoders stand by name, so that boards share series; ``order`` is that of the ranks."""
    order = board.table.index
    other = spans(board.table, "rank_low_tasks", "rank_high_tasks", "count")
    known = pd.Series(other, index=order, dtype=object)
    table = board.table.assign(other_tasks=known.where(known != MISSING))
    table = table.sort_index()
    columns = page_columns(replace(board, table=table))
    shown = [*_STANDING, *(str(column["name"]) for column in columns)]
    shown += [name for name in table.columns if name.startswith("relation_")]
    filled = set(table.columns[table.notna().any()])
    values = {name: _column(table[name]) for name in dict.fromkeys(shown) if name in filled}
    positions = {name: position for position, name in enumerate(names)}
    return {
        "id": "/".join(filter(None, [board.protocol, board.suite, board.kind])),
        "protocol": board.protocol,
        "title": ". ".join(filter(None, [board.title, board.about])),
        "said": verdicts(board.significance, board.table),
        "suite": board.suite,
        "kind": board.kind,
        "encoders": [positions[name] for name in table.index],
        "order": [int(at) for at in table.index.get_indexer(order)],
        "columns": columns,
        "values": values,
        "results": _results(replace(board, table=table), pool),
        "notes": list(board.notes),
        "judgement": _judgement(board),
    }


def _judgement(board: Board) -> Json | None:
    """How transferability scores did, as tables: over all tasks, and of each."""
    if board.judgement.summary.empty:
        return None
    over_all, single = tabulate_judgement(board.judgement.summary), tabulate_tasks(board.judgement)
    return {
        name: {"head": head, "rows": rows}
        for name, (head, rows) in (("over_all", over_all), ("single", single))
    }


def _column(values: pd.Series[Any]) -> Json | str | list[float | None]:
    """Whole numbers as they are, others packed; of texts, each once and who has which."""
    if pd.api.types.is_float_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        if np.nanmax(np.abs(numbers), initial=0) <= 1:
            return _pack(numbers)
        with np.errstate(over="ignore"):  # then it is unknown to the page
            large = numbers.astype("<f4")
        return {"float32": base64.b64encode(large.tobytes()).decode()}
    if pd.api.types.is_numeric_dtype(values):
        return [_number(value) for value in values]
    codes, texts = pd.factorize(values.astype(object))
    return {
        "texts": [str(text) for text in texts],
        "at": [int(code) if code >= 0 else None for code in codes],
    }


def _number(value: Any) -> float | None:
    """Four decimals, or five digits of what is large; whole numbers without a point."""
    if pd.isna(value) or np.isinf(value):
        return None
    rounded = round(float(value), 4) if abs(value) < 10 else float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() else rounded


def _results(board: Board, pool: dict[str, int]) -> list[list[Any]]:
    """For every task, split, adaptation and budget: what it is, and its position in the pool."""
    rows = board.results
    ran = rows["have"].groupby(rows["adaptation"]).transform("sum") > 0
    rows = rows[ran | ~rows["adaptation"].isin(OPTIONAL)]
    groups = rows.groupby([*_CELL, "chance"], sort=False, dropna=False)
    order = groups.ngroup().to_numpy()
    encoders = board.table.index.get_indexer(pd.Index(rows["encoder"]))
    shape = (groups.ngroups, len(board.table))

    def grid(name: str) -> NDArray[np.float64]:
        laid_out = np.full(shape, np.nan)
        laid_out[order, encoders] = rows[name].astype(float)
        return laid_out

    means, have, draws, diverged = map(grid, ("mean", "have", "draws", "diverged"))
    bounds = {name: grid(name) for name in ("low", "high") if name in rows}
    found = []
    for position, key in enumerate(groups.size().index):
        inside = key[_CELL.index("split")] == IN_DOMAIN
        series: Json = {"mean": _pack(means[position]), "draws": int(np.nanmax(draws[position]))}
        # What the page shows of the other splits is the mean alone.
        if inside:
            partial = have[position] < draws[position]
            series |= {
                **{name: _pack(bound[position]) for name, bound in bounds.items()},
                "have": _sparse(np.where(partial, have[position], np.nan)),
                "diverged": _sparse(np.where(diverged[position] > 0, diverged[position], np.nan)),
            }
        # Equal numbers of the same encoders are one series, whichever boards they stand on.
        text = json.dumps([list(board.table.index), series])
        found.append([*_plain(key), pool.setdefault(text, len(pool))])
    return found


def _plain(key: Sequence[Hashable]) -> list[Any]:
    """Group keys for JSON; a task that nobody ran has no metric."""
    return [None if pd.isna(part) else part for part in key]  # type: ignore[call-overload]


def _pack(values: NDArray[np.float64]) -> str | list[float | None]:
    """Base64 of little-endian 16-bit numbers; a plain list where a value is beyond their range."""
    if np.nanmax(np.abs(values), initial=0) * SCALE > -_NULL - 1:
        return [_number(value) for value in values]
    whole = np.where(np.isnan(values), _NULL, np.round(values * SCALE))
    return base64.b64encode(whole.astype("<i2").tobytes()).decode()


def _sparse(values: NDArray[np.float64]) -> dict[int, int]:
    return {int(at): int(values[at]) for at in np.flatnonzero(~np.isnan(values))}
