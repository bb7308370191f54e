"""Read a folder's CSV: one row per image, with its split, truth and patient.

Columns: ``file`` and ``split``; one form of truth; ``patient`` where known; no others. The truth is
one of

- ``label``: the name of a class. Where any row of the table joins several by "|", all rows are
  multi-label and an empty cell means none of the labels.
- ``mask``: the path of a mask, whose pixels are class ids.
- a column for each label, with 1 (yes), 0 (no) and -1 or nothing (unknown).

Paths are relative to the folder. Names of labels, files listed twice and patients in two splits
are checked in all rows of the table; only files of the split must exist.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError, suggest
from medtransfer.data.formats.images import SUFFIXES
from medtransfer.data.sources.folder_listing import Listing, check_file

if TYPE_CHECKING:
    import pandas as pd

_OTHER = ("file", "split", "patient")
_STATES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": -1}


def list_table(root: Path, table: Path, split: str) -> Listing:
    """List the images that a CSV assigns to a split, with their truth.

    Args:
        root: The folder, without links in its path.
        table: The CSV.
        split: Value of its column ``split``.

    Raises:
        InputError: Naming the CSV, the row as a spreadsheet counts it, the column, and the
            expected value.
    """
    rows = _read(table)
    form = _check_columns(table, rows.columns.tolist())
    for column in ("file", "mask") if form == "mask" else ("file",):
        rows = rows.assign(**{column: _normalise_paths(table, rows[column])})
    _check_leaks(table, rows)
    labels, names = _LABELS[form](table, rows)
    chosen = (rows["split"] == split).to_numpy()
    if not chosen.any():
        hint = suggest(split, rows["split"].unique())
        raise InputError(f"{table}: split: no row has '{split}'{hint}")
    rows, labels = rows[chosen], labels[chosen]
    order = np.argsort(rows["file"].to_numpy(dtype=object), kind="stable")
    rows, labels = rows.iloc[order], labels[order]
    return Listing(
        origin=f"{table} ({split})",
        ids=list(rows["file"]),
        images=_locate(table, rows["file"], root=root),
        labels=labels,
        label_names=names,
        patients=list(rows["patient"]) if "patient" in rows else None,
        masks=_locate(table, rows["mask"], root=root) if form == "mask" else None,
    )


def _read(table: Path) -> pd.DataFrame:
    """Read all cells as stripped text, indexed by the row numbers of the CSV."""
    import pandas as pd

    try:
        # Without header=None pandas would rename equal columns, guess an index and drop rows.
        cells = pd.read_csv(
            table,
            header=None,
            dtype=str,
            na_filter=False,
            skip_blank_lines=False,
            compression=None,
        )
    except (OSError, ValueError) as error:  # includes ParserError and UnicodeDecodeError
        reason = " ".join(str(error).split())
        raise InputError(f"{table}: not a CSV in UTF-8: {reason}") from None
    cells = cells.fillna("").map(str.strip)
    cells.index += 1
    for row, column in np.argwhere(~cells.map(str.isprintable).to_numpy(dtype=bool)):
        text = ascii(cells.iat[row, column])
        raise InputError(f"{table}: row {row + 1}: {text} cannot be printed; one line is expected")
    rows = cells.iloc[1:].set_axis(list(cells.iloc[0]), axis="columns")
    return rows[(rows != "").any(axis="columns")]


def _check_columns(table: Path, columns: list[str]) -> str:
    """Check the columns, and return the form of truth: ``label``, ``mask``, or ``columns``."""
    for column in columns:
        if not column or columns.count(column) > 1:
            raise InputError(f"{table}: columns: '{column}' occurs twice or has no name")
    for column in ("file", "split"):
        if column not in columns:
            raise InputError(f"{table}: column '{column}' is missing; found: {', '.join(columns)}")
    truth = [column for column in columns if column not in _OTHER]
    form = next((column for column in ("label", "mask") if column in truth), "columns")
    if not truth or (form != "columns" and len(truth) > 1):
        raise InputError(
            f"{table}: columns: beside file, split and patient either 'label', or 'mask', or a "
            f"column for each label is expected; found: {', '.join(truth) or 'none'}"
        )
    return form


def _normalise_paths(table: Path, cells: pd.Series[str]) -> pd.Series[str]:
    """Normalise paths to one spelling on every system."""
    paths = cells.map(PureWindowsPath)  # takes both "/" and "\\", and recognises drives
    for (row, cell), path in zip(cells.items(), paths, strict=True):
        if not path.parts or path.anchor or ".." in path.parts:
            raise InputError(
                f"{table}: row {row}: {cells.name}: '{cell}'; a path relative to the folder "
                "and inside it is expected"
            )
    return paths.map(PureWindowsPath.as_posix)


def _check_leaks(table: Path, rows: pd.DataFrame) -> None:
    """Refuse files listed twice, rows without a split, and patients in two splits."""
    for column in ("split", "patient"):
        if column in rows and (empty := rows.index[rows[column] == ""]).size:
            raise InputError(f"{table}: row {empty[0]}: {column}: empty; a name is expected")
    for row, file in rows["file"][rows["file"].duplicated()].items():
        first = rows.index[rows["file"] == file][0]
        raise InputError(f"{table}: row {row}: file: '{file}' is listed in row {first} already")
    if "patient" in rows:
        pairs = rows[["patient", "split"]].drop_duplicates().sort_values(["patient", "split"])
        for patient in pairs["patient"][pairs["patient"].duplicated()]:
            splits = pairs["split"][pairs["patient"] == patient]
            raise InputError(
                f"{table}: patient: '{patient}' is in the splits {' and '.join(splits)}; "
                "put all images of a patient into one split"
            )


def _read_names(table: Path, rows: pd.DataFrame) -> tuple[NDArray[np.int64], list[str]]:
    several = rows["label"].str.contains("|", regex=False).any()
    parsed = [
        [name.strip() for name in cell.split("|")] if cell or not several else []
        for cell in rows["label"]
    ]
    for row, names in zip(rows.index, parsed, strict=True):
        if "" in names:
            raise InputError(
                f"{table}: row {row}: label: a name is missing; an item without any label needs a "
                "table that joins labels by '|' in other rows, or one column per label"
            )
    classes = sorted({name for names in parsed for name in names})
    index = {name: number for number, name in enumerate(classes)}
    if not several:
        return np.array([index[name] for (name,) in parsed], np.int64), classes
    labels = np.zeros((len(parsed), len(classes)), np.int64)
    for row, names in zip(labels, parsed, strict=True):
        row[[index[name] for name in names]] = 1
    return labels, classes


def _read_columns(table: Path, rows: pd.DataFrame) -> tuple[NDArray[np.int64], list[str]]:
    names = [
        column for column in rows.columns.tolist() if column not in ("file", "split", "patient")
    ]
    labels = np.empty((len(rows), len(names)), np.int64)
    for number, name in enumerate(names):
        states = rows[name].map(_STATES)
        for row in rows.index[states.isna()]:
            cell = rows[name][row]
            path = PureWindowsPath(cell).suffix.lower() in SUFFIXES
            raise InputError(
                f"{table}: row {row}: {name}: '{cell}'; 1, 0, or -1 or nothing (unknown) is "
                "expected in the column of a label"
                + ("; a column of masks is called 'mask'" if path else "")
            )
        labels[:, number] = states
    return labels, names


def _read_no_labels(table: Path, rows: pd.DataFrame) -> tuple[NDArray[np.int64], None]:
    return np.empty((len(rows), 0), np.int64), None


_LABELS = {"label": _read_names, "columns": _read_columns, "mask": _read_no_labels}


def _locate(table: Path, cells: pd.Series[str], *, root: Path) -> list[Path]:
    """Resolve the files that a column names, and refuse missing ones."""
    paths = [root / cell for cell in cells]
    wrong = [
        (row, reason)
        for row, path in zip(cells.index, paths, strict=True)
        if (reason := check_file(path, root=root))
    ]
    if wrong:
        row, reason = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(f"{table}: row {row}: {cells.name}: '{cells[row]}': {reason}{more}")
    return paths
