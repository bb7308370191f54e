"""Submissions on disk: merged, read in parallel, or refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from medtransfer import ranking
from medtransfer.core.errors import InputError
from medtransfer.ranking import load_submissions
from medtransfer.specs.record import Cell, Record, read_records
from tests.conftest import ROOT, Bench
from tests.helpers.boards import (
    CELLS,
    FAILURE,
    FINETUNED,
    QUICK,
    SUITES,
    at,
    made,
    rank,
    record,
    save,
    submission,
)


def test_order_of_files_and_lines_does_not_matter(tmp_path: Path) -> None:
    """The same submissions give the same bytes, however they lie in folders and ledgers."""
    noise = random.Random(0)

    def vary(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return draft | {"metrics": {"in_domain": {"auroc": noise.random()}, "b": {"auroc": 0.5}}}

    pool = [submission(name, change=vary) for name in "abc"]
    save(tmp_path / "one", *pool)
    shuffled = [made(s.card, noise.sample(s.records, len(s.records))) for s in pool]
    save(tmp_path / "two", *shuffled[2:])
    save(tmp_path / "three", *shuffled[:2])
    texts = []
    for folders in [["one"], ["two", "three"], ["three", "two"]]:
        submissions = ranking.load_submissions([tmp_path / folder for folder in folders])
        found = ranking.boards(submissions, SUITES, {"quick": QUICK})
        texts.append((ranking.render_markdown(found), ranking.render_csv(found)))
    assert texts[0] == texts[1] == texts[2]


def test_parts_of_one_encoder_are_merged(tmp_path: Path) -> None:
    """The first settled record of a cell stands, in the order of the folders."""
    failed = submission("a", change=at(FINETUNED, **FAILURE), cells=CELLS[:-1])
    save(tmp_path / "one", failed)
    save(tmp_path / "two", submission("a", value=0.9))
    save(tmp_path / "one", submission("b", value=0.7))
    (tmp_path / "one" / ".cache").mkdir()
    (tmp_path / "one" / "__pycache__").mkdir()
    (tmp_path / "one" / "README.md").touch()
    merged, other = ranking.load_submissions([tmp_path / "one", tmp_path / "two"])
    cells = merged.cells[list(Cell._fields)].itertuples(index=False, name=None)
    inside = merged.values[merged.values["split"] == "in_domain"].set_index("cell")["value"]
    values = {Cell(*cell): inside[number] for number, cell in enumerate(cells)}
    assert set(values) == set(CELLS)
    assert {cell for cell, value in values.items() if value == 0.9} == {FINETUNED, CELLS[-1]}
    assert rank(merged, other).table["rank"].tolist() == [1, 2]


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read and ranked by two processes, the boards are the same to the last bit."""
    save(tmp_path, *(submission(name, value=0.6 + 0.1 * n) for n, name in enumerate("abc")))
    one = ranking.load_submissions([tmp_path])
    monkeypatch.setattr("medtransfer.ranking.records.submissions._MUCH", 0)
    monkeypatch.setattr("medtransfer.ranking.statistics.bootstrap._MUCH", 0)
    two = ranking.load_submissions([tmp_path], processes=2)
    for first, second in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(first.cells, second.cells)
        pd.testing.assert_frame_equal(first.values, second.values)
    tables = [
        ranking.boards(found, SUITES, {"quick": QUICK}, processes=number)[0].table
        for number, found in ((1, one), (2, two))
    ]
    pd.testing.assert_frame_equal(*tables)
    (tmp_path / "b" / "records.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"b.records.jsonl: line 1: encoder: required"):
        ranking.load_submissions([tmp_path], processes=2)


def test_folders_that_are_something_else(tmp_path: Path, bench: Bench) -> None:
    """A submission instead of its folder, a study out of place, two copies: each is said."""
    folder, out = save(tmp_path / "all", submission("a")), tmp_path / "out"
    outcome = bench("leaderboard", "--submissions", folder / "a", "--out", out)
    assert outcome.code == 2 and f"the folder that it is in, {folder}" in outcome.err
    shutil.copytree(folder / "a", folder / "copy")
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 0
    places = f"{folder / 'a'} and {folder / 'copy'}"
    assert f"note: a is in {places}: merged" in outcome.out
    (folder / "study").mkdir()
    (folder / "study" / "study.yaml").touch()
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 2 and "its place is in a folder called published" in outcome.err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"metrics": {"in_domain/x": {"auroc": 1.0}}}, "metrics.in_domain/x: only in_domain is"),
        ({"metrics": {"in_domain": {"auroc": 1.3}}}, "metrics.in_domain.auroc: 1.3"),
        ({"task": record("a", CELLS[0])["task"] | {"chance": 0.9}}, "task.chance: 0.9; auroc has"),
    ],
)
def test_records_that_would_move_others_are_refused(part: dict[str, Any], message: str) -> None:
    """Chance is the metric's, and what is in-domain is one split: nobody else sets them."""
    with pytest.raises(ValidationError, match=message):
        Record.model_validate({**record("a", CELLS[0]), **part})


def test_the_last_failure_is_shown(tmp_path: Path) -> None:
    """Of several tries that all failed the last one stands, as in the ledger."""
    one = submission("a", change=at(FINETUNED, **FAILURE | {"error": "first"}))
    two = submission("a", change=at(FINETUNED, **FAILURE | {"error": "last"}))
    path = save(tmp_path, one) / "a" / "records.jsonl"
    path.write_text(path.read_text() + "".join(f"{r.line()}\n" for r in two.records))
    [merged] = ranking.load_submissions([tmp_path])
    assert len(merged.cells) == len(CELLS)
    assert rank(merged).table.loc["a", "error"] == "last"
    assert {r.error for r in read_records(path)} == {None, "last"}


def test_wrong_submissions_are_refused(tmp_path: Path) -> None:
    """Each error names the folder and what is wrong with it."""

    def other(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "encoder": {"name": "a", "sha256": "other weights"}}

    one, two = save(tmp_path / "one", submission("a")), tmp_path / "two"
    save(two, submission("a", change=other))
    with pytest.raises(InputError, match=r"two.a: encoder.sha256: .*one name 'a'"):
        ranking.load_submissions([one, two])
    with pytest.raises(InputError, match="three: no such folder"):
        ranking.load_submissions([tmp_path / "three"])
    (one / "a" / "encoder.yaml").write_text("name: b\narchitecture: {timm: resnet18}\n")
    with pytest.raises(InputError, match=r"records.jsonl: encoder.name: 'a' in a record.*'b' in"):
        ranking.load_submissions([one])
    (one / "a" / "encoder.yaml").unlink()
    with pytest.raises(InputError, match=r"one.a: holds no encoder.yaml"):
        ranking.load_submissions([one])


def test_records_of_some_tasks_only(tmp_path: Path) -> None:
    """Reading the records of some tasks gives those that reading all of them holds."""
    for name in ("hog", "resnet18"):
        shutil.copytree(ROOT / "submissions" / name, tmp_path / name)
    for every, some in zip(
        load_submissions([tmp_path]),
        load_submissions([tmp_path], tasks=["phantom_ct", "none"]),
        strict=True,
    ):
        assert every.card == some.card
        kept = every.cells[every.cells["task"] == "phantom_ct"]
        assert len(kept) == len(some.cells) > 0
        assert kept["budget"].tolist() == some.cells["budget"].tolist()
        values = every.values[every.values["cell"].isin(kept.index)]
        assert values["value"].tolist() == some.values["value"].tolist()
