"""Folders of published results: the command that writes them, and tampered ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from medtransfer.core.errors import InputError
from medtransfer.ranking.published.board import load_published
from medtransfer.ranking.published.csv_import import import_results, write_study
from medtransfer.ranking.published.markdown import render_published
from tests.conftest import Bench
from tests.helpers.published import MAPPING, PLAIN, ROWS, put


def test_command(bench: Bench, tmp_path: Path) -> None:
    """`bench import` writes a study that loads as it was read; a wrong CSV writes nothing."""
    path, mapping = put(tmp_path, **PLAIN)
    out = tmp_path / "out"
    outcome = bench("import", path, "--mapping", mapping, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "wrote 6 records of 3 encoders on 3 targets" in outcome.out
    assert "cells of the study without a result: 30 of 36" in outcome.out
    [published] = load_published(out)
    assert published.records == import_results(path, mapping).records
    folder = out / "doe-2020"
    assert {file.name for file in folder.iterdir()} == {"study.yaml", "records.jsonl"}
    before = (folder / "records.jsonl").read_bytes()

    # Again, from the study's own copy of the mapping: the same bytes.
    assert bench("import", path, "--mapping", folder / "study.yaml", "--out", out).code == 0
    assert (folder / "records.jsonl").read_bytes() == before
    assert (folder / "study.yaml").read_bytes() == mapping.read_bytes()

    path.write_text(path.read_text().replace("photos,", "photo,"))
    outcome = bench("import", path, "--mapping", mapping, "--out", out / "new")
    assert outcome.code == 2
    assert re.fullmatch(r"error: .*line 2: column 'model': 'photo' .*\n", outcome.err)
    assert not (out / "new").exists()


def test_one_of_each_is_no_plural(bench: Bench, tmp_path: Path) -> None:
    """A study of one record says so in English."""
    one = {"encoders": {"xray": MAPPING["encoders"]["xray"]}}
    one["targets"] = {"TB": MAPPING["targets"]["TB"]}
    path, mapping = put(tmp_path, rows=[ROWS[6]], **PLAIN, **one)
    outcome = bench("import", path, "--mapping", mapping, "--out", tmp_path / "out")
    assert "wrote 1 record of 1 encoder on 1 target to" in outcome.out


def test_published_results_make_a_leaderboard(bench: Bench, tmp_path: Path) -> None:
    """Where nothing was measured, published results are the board; where nothing is, an error."""
    folder = tmp_path / "all"
    folder.mkdir()
    out = tmp_path / "board"
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 2 and "holds no submission" in outcome.err and not out.exists()
    path, mapping = put(tmp_path, **PLAIN)
    write_study(import_results(path, mapping), mapping, folder / "published")
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "## Published results" in (out / "README.md").read_text()
    assert bench("leaderboard", "--submissions", folder, "--out", out, "--check").code == 0


def test_nothing_is_half_written(tmp_path: Path) -> None:
    """A folder that cannot take one of the two files keeps what it had of the other."""
    path, mapping = put(tmp_path, **PLAIN)
    imported = import_results(path, mapping)
    with pytest.raises(InputError, match="cannot be written"):
        write_study(imported, mapping, path)
    folder = write_study(imported, mapping, tmp_path / "out")
    (folder / "records.jsonl").unlink()
    (folder / "records.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_study(imported, mapping, tmp_path / "out")
    assert {file.name for file in folder.iterdir()} == {"study.yaml", "records.jsonl"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:-9], r"line 1: the document: Invalid JSON"),
        (
            lambda line: line.replace("doe-2020", "roe-2020"),
            r"line 1: study: a record of 'roe-2020'",
        ),
        (lambda line: line.replace("linear", "knn"), r"line 1: study: .*\(knn\)"),
        (lambda line: line.replace('"lungs"', '"legs"'), r"line 1: photos-big on legs .*no cell"),
        (lambda line: line.replace('"draw":1', '"draw":2'), r"1-shot #2 is no cell"),
        (lambda line: line.replace("[]", '["odd"]'), r"marks: 'odd' is not in"),
        (lambda line: line.replace("auroc", "dice"), r"metrics: 'dice' is not in"),
        (lambda line: line.replace("0.62", "1.62"), r"metrics.auroc: Input should be less"),
        (
            lambda line: line.replace("published", "measured"),
            r"origin: Input should be 'published'",
        ),
        (
            lambda line: f"{line}\n{line}",
            r"line 2: photos-big on lungs 1-shot #1 is on line 1, too",
        ),
    ],
)
def test_tampered_records(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    """Records that the study cannot have made are refused, by file and line."""
    path, mapping = put(tmp_path, **PLAIN)
    folder = write_study(import_results(path, mapping), mapping, tmp_path / "out")
    ledger = folder / "records.jsonl"
    first, *others = ledger.read_text().splitlines()
    assert change(first) != first
    ledger.write_text("\n".join([change(first), *others]) + "\n")
    with pytest.raises(InputError, match=f"records.jsonl: .*{message}"):
        load_published(tmp_path / "out")


def test_wrong_folders(tmp_path: Path) -> None:
    """No folder, no studies; a study under another's name, or without its files, is refused."""
    assert load_published(tmp_path / "nowhere") == []
    assert render_published([]) == ""
    path, mapping = put(tmp_path, **PLAIN)
    folder = write_study(import_results(path, mapping), mapping, tmp_path / "out")
    moved = folder.rename(folder.with_name("roe-2020"))
    with pytest.raises(InputError, match=r"name: 'doe-2020', but its folder is 'roe-2020'"):
        load_published(tmp_path / "out")
    (moved / "study.yaml").unlink()
    with pytest.raises(InputError, match=r"study.yaml: cannot be read"):
        load_published(tmp_path / "out")
