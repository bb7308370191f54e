"""The files of the leaderboard folder: written whole or not at all, and checked byte by byte."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from medtransfer.ranking.board import Board
from medtransfer.ranking.markdown import render_markdown
from medtransfer.ranking.published import Published
from medtransfer.ranking.published_markdown import render_published
from medtransfer.specs.encoder import EncoderCard

__all__ = ["check_leaderboard", "csv_field", "render_csv", "tidy", "write_leaderboard"]


def tidy(boards: Sequence[Board]) -> pd.DataFrame:
    """One row per board and encoder.

    Returns:
        Columns protocol, suite, kind (empty: all its tasks), rank (null: unranked), encoder,
        title, coverage, the scores, one score per domain, the costs, and the encoder's transfer
        relation to each domain.
    """
    names = ["protocol", "suite", "kind", "rank", "encoder", "title", "coverage"]
    columns = [column for board in boards for column in board.columns]
    domains = sorted({column.domain for column in columns if column.domain is not None})
    names += dict.fromkeys(
        column.name for column in columns if column.unit == "score" and column.domain is None
    )
    names += [f"domain_{domain}" for domain in domains]
    names += dict.fromkeys(column.name for column in columns if column.unit != "score")
    names += [f"relation_{domain}" for domain in domains]
    rows = [
        {"protocol": board.protocol, "suite": board.suite, "kind": board.kind, **row}
        for board in boards
        for row in board.table.reset_index().to_dict("records")
    ]
    return pd.DataFrame(rows, columns=names)


def render_csv(boards: Sequence[Board]) -> str:
    """The rows of :func:`tidy`, six decimals; unknown values are empty."""
    table = tidy(boards)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_field(name) for name in table.columns])
    writer.writerows(map(csv_field, row) for row in table.itertuples(index=False, name=None))
    return text.getvalue()


def csv_field(value: Any) -> str:
    """One value; text that a spreadsheet would run as a formula gets an apostrophe."""
    if pd.isna(value):
        return ""
    if isinstance(value, str):
        line = " ".join(value.split())
        return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
    if float(value).is_integer():
        return str(int(value))
    return repr(round(float(value), 6) + 0.0)


def write_leaderboard(
    boards: Sequence[Board],
    out: Path,
    *,
    cards: Mapping[str, EncoderCard],
    studies: Sequence[Published] = (),
) -> list[str]:
    """Write the leaderboard's files into ``out``; a reader never sees half a file.

    Args:
        boards: In their order.
        out: A folder.
        cards: Of every encoder on a board.
        studies: Published results.

    Returns:
        The files' names; `index.html` is among them where the extra ``page`` is installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = _files(boards, cards, studies)
    for name, content in files.items():
        part = out / f".{name}.{os.getpid()}.part"
        try:
            part.write_bytes(content)
            part.replace(out / name)
        finally:
            part.unlink(missing_ok=True)
    return list(files)


def check_leaderboard(
    boards: Sequence[Board],
    out: Path,
    *,
    cards: Mapping[str, EncoderCard],
    studies: Sequence[Published] = (),
) -> list[str]:
    """Names of the files in ``out`` that are missing or differ from what would be written."""
    return [
        name
        for name, content in _files(boards, cards, studies).items()
        if not (out / name).is_file() or (out / name).read_bytes() != content
    ]


def _files(
    boards: Sequence[Board], cards: Mapping[str, EncoderCard], studies: Sequence[Published]
) -> dict[str, bytes]:
    files = {
        "README.md": render_markdown(boards, published=render_published(studies)),
        "leaderboard.csv": render_csv(boards),
    }
    if find_spec("altair") and find_spec("vl_convert"):
        from medtransfer.ranking.page import render_page  # the charting library takes a second

        files["index.html"] = render_page(boards, cards)
    return {name: text.encode() for name, text in files.items()}
