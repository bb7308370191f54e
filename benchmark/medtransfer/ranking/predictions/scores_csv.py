"""Transferability scores and outcomes of others, read from CSV."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pandas as pd

from medtransfer.core.errors import InputError, reason, suggest
from medtransfer.ranking.predictions.score_validation import RANDOM


def read_scores_csv(path: Path) -> pd.DataFrame:
    """Read columns encoder, task, score and value; an empty value is an undefined score.

    Raises:
        InputError: Naming the file, the line and what would be right there.
    """
    return _read(path, ("encoder", "task", "score"), empty=True)


def read_outcomes(path: Path) -> pd.DataFrame:
    """Read columns encoder, task, metric and value; metrics come back as column outcome.

    Raises:
        InputError: Naming the file, the line and what would be right there.
    """
    return _read(path, ("encoder", "task", "metric"), empty=False).rename(
        columns={"metric": "outcome"}
    )


def _read(path: Path, names: tuple[str, ...], *, empty: bool) -> pd.DataFrame:
    columns = (*names, "value")
    rows: dict[tuple[str, ...], float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            head = [name.strip() for name in next(reader, [])]
            places = [_place(path, head, name) for name in columns]
            for row in reader:
                if not any(field.strip() for field in row):
                    continue
                where = f"{path}: line {reader.line_num}"
                if len(row) != len(head):
                    raise InputError(f"{where}: {len(row)} fields; {len(head)} are expected")
                *key, text = (row[place].strip() for place in places)
                if not all(key):
                    missing = names[[bool(part) for part in key].index(False)]
                    raise InputError(f"{where}: {missing}: is empty")
                if RANDOM in key:
                    raise InputError(f"{where}: '{RANDOM}' is a reserved name")
                if tuple(key) in rows:
                    raise InputError(f"{where}: a second value of {', '.join(key)}")
                rows[tuple(key)] = _number(where, text, empty=empty)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV in UTF-8: {error}") from None
    if not rows:
        raise InputError(f"{path}: holds no row below its head")
    return pd.DataFrame([(*key, value) for key, value in rows.items()], columns=list(columns))


def _place(path: Path, head: list[str], name: str) -> int:
    if head.count(name) != 1:
        problem = f"{head.count(name)} columns '{name}'" if name in head else f"no column '{name}'"
        raise InputError(f"{path}: line 1: {problem}{suggest(name, head) if head else ''}")
    return head.index(name)


def _number(where: str, text: str, *, empty: bool) -> float:
    if not text and empty:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: value: '{text}'; a number is expected")
    return value
