"""The ledger's replicates: one matrix, whatever a folder was begun with or killed at."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError
from medtransfer.evaluation.ledger import Ledger
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import Record, read_records
from medtransfer.specs.replicates import FILE, read_rows
from tests.conftest import ROOT, Bench, Small
from tests.helpers.evaluation import arguments
from tests.helpers.kills import kill_at_each_step
from tests.helpers.replicates import load_arrays

SHIPPED = ROOT / "submissions" / "hog"  # its replicates are an array for each row


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with the first five records of a submission, in the layout of then."""
    folder = tmp_path / "hog"
    folder.mkdir()
    shutil.copy(SHIPPED / "encoder.yaml", folder)
    lines = (SHIPPED / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:5]))
    keys = {record.cell.replicates_key for record in read_records(folder / "records.jsonl")}
    arrays = load_arrays(SHIPPED / FILE)
    arrays = {key: row for key, row in arrays.items() if key.rpartition("/")[0] in keys}
    np.savez(folder / FILE, **arrays)
    return folder


def read_next(count: int) -> list[Record]:
    """The records that come after the first five."""
    return read_records(SHIPPED / "records.jsonl")[5 : 5 + count]


def append(folder: Path, records: list[Record]) -> None:
    """Open the ledger and write records with their arrays, as an evaluation does."""
    ledger = Ledger(folder)
    ledger.open(EncoderCard.parse(read_yaml(folder / "encoder.yaml"), origin="card"))
    rows = load_arrays(SHIPPED / FILE)
    for record in records:
        key = f"{record.cell.replicates_key}/"
        ledger.append(
            record.model_copy(update={"replicates": None, "predictions": None}),
            replicates={name[len(key) :]: rows[name] for name in rows if name.startswith(key)},
            predictions={},
        )
    ledger.close()


def test_a_folder_of_the_older_layout_is_carried_on(begun: Path) -> None:
    """All rows are there in the newer layout, with the same bytes, and so are all hashes."""
    before = load_arrays(begun / FILE)
    append(begun, read_next(3))
    with np.load(begun / FILE) as archive:
        assert sorted(archive.files) == ["keys", "values"]
    shipped, rows = load_arrays(SHIPPED / FILE), read_rows(begun / FILE)
    assert before.keys() < rows.keys()
    assert all(rows[key].tobytes() == shipped[key].tobytes() for key in rows)
    whole = {record.cell: record for record in read_records(SHIPPED / "records.jsonl")}
    records = read_records(begun / "records.jsonl")
    assert len(records) == 8
    for record in records:
        assert record.replicates == whole[record.cell].replicates
        assert record.replicates is None or any(
            key.startswith(f"{record.replicates.key}/") for key in rows
        )


@pytest.mark.parametrize("layout", ["arrays", "matrix"])
def test_kills_leave_a_readable_archive(begun: Path, layout: str) -> None:
    """Before whichever step on the disk the process is killed: no row of a record is lost."""
    if layout == "matrix":
        append(begun, read_next(1))
    records, shipped = read_next(2), load_arrays(SHIPPED / FILE)
    lengths = []
    for _ in kill_at_each_step(lambda: append(begun, records)):
        rows = read_rows(begun / FILE)
        assert all(np.array_equal(rows[key], shipped[key], equal_nan=True) for key in rows)
        lines = read_records(begun / "records.jsonl")
        keys = {key.rpartition("/")[0] for key in rows}
        assert {r.replicates.key for r in lines if r.replicates is not None} <= keys
        lengths.append(len(rows))
        (begun / "records.jsonl.lock").unlink(missing_ok=True)
    assert len(lengths) > 10 and len(set(lengths)) > 1
    assert not list(begun.glob(".*"))


def test_rows_of_no_record_are_dropped(begun: Path) -> None:
    """What a killed process wrote of a cell whose record is missing does not stay."""
    lines = (begun / "records.jsonl").read_bytes().splitlines(keepends=True)
    (begun / "records.jsonl").write_bytes(b"".join(lines[1:]))
    lost = Record.model_validate_json(lines[0]).cell.replicates_key
    append(begun, read_next(1))
    assert lost not in {key.rpartition("/")[0] for key in read_rows(begun / FILE)}


@pytest.mark.parametrize("layout", ["arrays", "matrix"])
def test_a_damaged_archive_is_not_replaced(begun: Path, layout: str) -> None:
    """It stays as it was, and the message says what to do."""
    if layout == "matrix":
        append(begun, read_next(1))
    content = (begun / FILE).read_bytes().replace(b"PK\x01\x02", b"PK\x00\x00")
    (begun / FILE).write_bytes(content)
    with pytest.raises(InputError, match=r"replicates\.npz: damaged; choose another --out"):
        append(begun, read_next(2))
    assert (begun / FILE).read_bytes() == content


def test_an_evaluation_resumes_the_older_layout(small: Small, tmp_path: Path, bench: Bench) -> None:
    """`bench evaluate` ends with the same bytes as one that was never in that layout."""
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert bench(*arguments(small, "pixels", whole)).code == 0
    shutil.copytree(whole, halved)
    folder = halved / "pixels"
    lines = (folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join(lines[:7]))
    np.savez(folder / FILE, **load_arrays(folder / FILE))
    assert bench(*arguments(small, "pixels", halved)).code == 0
    assert (folder / FILE).read_bytes() == (whole / "pixels" / FILE).read_bytes()
    assert bench("validate", folder).code == 0
