"""Boards and cards as the page's JSON: compact, because hundreds of encoders share one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.core.text import MISSING
from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.boards.columns import spans
from medtransfer.ranking.predictions.predictions import tabulate_tasks, tabulate_validation
from medtransfer.ranking.published.board import Published, PublishedBoard, published_board
from medtransfer.ranking.published.findings import LEGEND, describe_findings
from medtransfer.ranking.report.charts import chart_specifications
from medtransfer.ranking.report.site.cards import describe, describe_published
from medtransfer.ranking.report.site.columns import page_columns
from medtransfer.ranking.report.task_tables import tabulate_task
from medtransfer.ranking.statistics.rank_statistics import verdicts
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import OPTIONAL
from medtransfer.specs.split_name import IN_DOMAIN

SCALE = 30_000
"""Metrics are 16-bit whole numbers of 1 / SCALE; the lowest one is null."""

_NULL = -(2**15)
_CELL = ["task", "domain", "metric", "split", "adaptation", "budget"]
_RANKS = ["rank", "have", "expected", "error", "rank_low", "rank_high", "tie"]
_RANKS += ["rank_low_tasks", "rank_high_tasks", "in_domain_low", "in_domain_high"]
_RANKS += ["status", "contamination", "init", "trained"]

Json = dict[str, Any]
Pack = Callable[[NDArray[np.float64]], str | list[float | None]]


def payload(
    boards: Sequence[Board],
    cards: Mapping[str, EncoderCard],
    studies: Sequence[Published] = (),
) -> Json:
    """Data of the page, read by ``data.js``.

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
        "boards": described + [_study(published_board(study)) for study in studies],
        "encoders": [describe(cards[name]) for name in names],
        "series": _series(pool),
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


def _series(pool: Mapping[str, int]) -> list[Json]:
    return [json.loads(text)[1] for text in pool]


def _study(board: PublishedBoard) -> Json:
    """A published study: encoders and series of its own, since its numbers are on no other board.

    They are not packed: the page shows as many digits as the study has.
    """
    study, pool = board.study, dict[str, int]()
    names = sorted(board.table.index)
    described = _board(replace(board, results=board.primary), names, pool, pack=_round)
    return described | {
        "id": f"published:{study.name}",
        "cards": [describe_published(study.encoder_cards[name]) for name in names],
        "series": _series(pool),
        "published": {
            "citation": study.citation,
            "licence": study.licence,
            "url": study.url,
            "findings": describe_findings(study, board.findings),
            "reading": LEGEND,
            "targets": [
                {
                    "name": name,
                    "title": title,
                    "tables": [
                        {"metric": metric, "head": head, "rows": rows}
                        for metric, part in board.by_metric(name).items()
                        for head, rows in [tabulate_task(part, board.table.index)]
                    ],
                }
                for name, title in board.tasks.items()
            ],
        },
    }


def _board(
    board: Board, names: Sequence[str], pool: dict[str, int], *, pack: Pack | None = None
) -> Json:
    """Encoders are sorted by name, so that boards share series; ``order`` is that of the ranks."""
    pack = pack or _pack
    order = board.table.index
    other = spans(board.table, "rank_low_tasks", "rank_high_tasks", "count")
    ranks = pd.Series(other, index=order, dtype=object)
    table = board.table.assign(other_tasks=ranks.where(ranks != MISSING))
    table = table.sort_index()
    columns = page_columns(replace(board, table=table))
    shown = [*_RANKS, *(str(column["name"]) for column in columns)]
    shown += [name for name in table.columns if name.startswith("relation_")]
    filled = set(table.columns[table.notna().any()])
    values = {name: _column(table[name], pack) for name in dict.fromkeys(shown) if name in filled}
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
        "results": _results(replace(board, table=table), pool, pack),
        "notes": list(board.notes),
        "validation": _validation(board),
    }


def _validation(board: Board) -> Json | None:
    """Validation of transferability scores, as tables: over all tasks, and of each."""
    if board.validation.summary.empty:
        return None
    over_all, single = (
        tabulate_validation(board.validation.summary),
        tabulate_tasks(board.validation),
    )
    return {
        name: {"head": head, "rows": rows}
        for name, (head, rows) in (("over_all", over_all), ("single", single))
    }


def _column(values: pd.Series[Any], pack: Pack) -> Json | str | list[float | None]:
    """Pack a column: whole numbers stay, others are packed, equal texts are stored once."""
    if pd.api.types.is_float_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        if np.nanmax(np.abs(numbers), initial=0) <= 1:
            return pack(numbers)
        with np.errstate(over="ignore"):  # an overflow is unknown on the page
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


def _results(board: Board, pool: dict[str, int], pack: Pack) -> list[list[Any]]:
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
        series: Json = {"mean": pack(means[position]), "draws": int(np.nanmax(draws[position]))}
        # What the page shows of the other splits is the mean alone.
        if inside:
            partial = have[position] < draws[position]
            series |= {
                **{name: pack(bound[position]) for name, bound in bounds.items()},
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


def _round(values: NDArray[np.float64]) -> list[float | None]:
    """Six decimals, as the page computes with these numbers."""
    return [None if np.isnan(value) else round(float(value), 6) + 0.0 for value in values]


def _sparse(values: NDArray[np.float64]) -> dict[int, int]:
    return {int(at): int(values[at]) for at in np.flatnonzero(~np.isnan(values))}
