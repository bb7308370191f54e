"""Comparisons of two encoders, and marks of declared pre-training data."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer import ranking
from medtransfer.ranking.boards.comparison import compare_pair
from medtransfer.specs.record import Cell
from tests.conftest import Bench
from tests.helpers.boards import CELLS, QUICK, SUITES, rank
from tests.helpers.uncertainty import groups_of, measured


def test_compare_says_who_is_better(tmp_path: Path, bench: Bench) -> None:
    """First one sentence; then a view, a domain and a task each have a row, and a star who is."""
    measured(tmp_path, "strong", value=0.8)
    measured(tmp_path, "weak", value=0.7)
    measured(tmp_path, "twin", value=0.8, seed=zlib.crc32(b"strong"))
    outcome = bench("compare", "strong", "weak", "--submissions", tmp_path)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith("In-domain, strong is better than weak by 0.200 (95 %: 0.")
    assert lines[1].startswith("Out-of-domain, ")
    assert max(map(len, lines)) <= 100
    inside, outside = (
        {line.split()[0]: line.split()[1:4] for line in part.splitlines() if line.strip()}
        for part in outcome.out.partition("in-domain  ")[2].split("out-of-domain  ")
    )
    assert inside["overall"] == ["0.600*", "0.400", "+0.200"]
    assert {"chest-xray", "full"} <= inside.keys() and "chest" in outside
    turned = bench("compare", "weak", "strong", "--submissions", tmp_path).out
    assert "In-domain, strong is better than weak by 0.200 (95 %: 0." in turned
    assert "0.600*      -0.200" in turned
    same = bench("compare", "strong", "twin", "--submissions", tmp_path).out
    assert "neither is shown to be better: strong minus twin is" in same


def test_compare_over_what_both_have(tmp_path: Path, bench: Bench) -> None:
    """A group that one lacks a draw of is left out for both; a task with none has no row."""
    gone = [cell for cell in CELLS if cell.task == "chest" or cell == CELLS[0]]

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any] | None:
        return None if cell in gone else draft

    layout = groups_of(measured(tmp_path, "a", value=0.8), measured(tmp_path, "b", change=change))
    found = compare_pair(layout.ranked, layout.replicates, "a", "b")
    tasks = {row.view for row in found if row.part == "task"}
    assert tasks == {cell.task for cell in CELLS} - {"chest"}
    assert all(np.isfinite([row.first, row.second, row.low, row.high]).all() for row in found)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "bb"), "no submission of encoder 'bb'; did you mean 'b'?"),
        (("a", "a"), "'a' twice; name two encoders"),
        (("a", "b"), "share no complete task, budget and adaptation"),
    ],
)
def test_what_cannot_be_compared(
    names: tuple[str, str], message: str, tmp_path: Path, bench: Bench
) -> None:
    """One line says why."""
    measured(tmp_path, "a", cells=CELLS[:3])
    measured(tmp_path, "b", cells=CELLS[-3:])
    outcome = bench("compare", *names, "--submissions", tmp_path)
    assert outcome.code == 2 and message in outcome.err


def test_declared_data_mark_a_submission_and_make_a_second_rank(tmp_path: Path) -> None:
    """Names of corpora are compared without case, dashes and dots; who says nothing is unknown."""
    seen = {"pretraining": {"domains": ["natural"], "datasets": ["CIFAR-10"]}}
    clean = {"pretraining": {"domains": [], "datasets": [], "objective": "none"}}
    at_chest = {c: {"in_domain": {"auroc": 0.95, "n": 400}} for c in CELLS if c.task == "chest"}

    def lucky(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "metrics": at_chest.get(cell, draft["metrics"])}

    encoders = (
        measured(tmp_path, "seen", value=0.75, change=lucky, **seen),
        measured(tmp_path, "clean", value=0.78, **clean),
        measured(tmp_path, "silent", value=0.6),
    )
    lineages = {"chest": ["cifar10"], "slices": ["other"]}
    [board] = ranking.boards(encoders, SUITES, {"quick": QUICK}, lineages=lineages)
    table = board.table
    assert table["contamination"].to_dict() == {
        "seen": "overlap",
        "clean": "clean",
        "silent": "unknown",
    }
    assert table["rank"].to_dict() == {"seen": 1, "clean": 2, "silent": 3}
    assert table["clean_rank"].to_dict() == {"seen": 2, "clean": 1, "silent": 3}
    text = ranking.render_markdown([board])
    assert "Unseen tasks only" in text and "chest (seen)" in text


def test_further_pretraining_stands_beside_its_parent(tmp_path: Path) -> None:
    """By declared compute; and where there is none, the board says what would fill the view."""
    run = {
        **{"recipe": "simclr", "fingerprint": "f", "tasks": {}, "images": 10, "epochs": 1},
        **{"steps": 5, "batch": 2, "images_seen": 10, "flops": 10**15, "seconds": 1},
        **{"trainable": "partial:layer4|`", "share_of_full": 0.413},
    }
    child = {"pretraining": {"init": "parent", "cost": {"flops": 2e15}, "run": run}}
    parent = {"pretraining": {"cost": {"flops": 1e15}}}
    encoders = [
        measured(tmp_path, "child", value=0.8, **child),
        measured(tmp_path, "parent", value=0.75, **parent),
        measured(tmp_path, "other", value=0.7),
    ]
    text = ranking.render_markdown([rank(*encoders)])
    view = text[text.index("Further pre-training, by its compute") :].split("###")[0]
    rows = [line.split(" | ") for line in view.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip("| ") for row in rows] == ["parent", "child"]
    assert rows[0][2] == "-"
    assert rows[1][2] == "partial:layer4\\|\\`, 41 % of the FLOPs of full"
    assert rows[1][1] == "parent" and rows[1][-1].strip("| ") == "2.0 PFLOP"
    assert "names its parent" in ranking.render_markdown([rank(*encoders[1:])])
