"""Cells that `bench verify` runs again, and what only a run finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medtransfer.encoders.resolution import resolve_encoder
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.verification import read_status
from medtransfer.verification.entries import Entry, read_entries
from medtransfer.verification.rerun import Rerun, choose_cells, compare
from medtransfer.verification.tasks import open_tasks
from tests.conftest import Bench
from tests.helpers.tampering import edit, name_cell, put, verify


def test_cells_are_run_again(made: Path, copy: Path, bench: Bench) -> None:
    """Cells that come out the same make it verified, until one byte of a file changes."""
    outcome = verify(bench, made, copy, "--rerun", 50)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert outcome.out.count("ok: run again: ") == 18
    assert outcome.out.splitlines()[-1] == (
        "status: verified: 21 cells; 11 of the 32 ranked cells of these tasks, protocol quick, are "
        "missing"
    )
    written = json.loads((copy / "verification.json").read_text())
    assert {cell["cell"] for cell in written["cells"]} >= {
        "small full linear #0",
        "small 1-shot knn #2",
    }
    assert written["cells"][0].keys() == {"cell", "split", "recorded", "again"}
    assert read_status(copy) == "verified"
    assert "status: verified: 21 cells" in verify(bench, made, copy).out
    for name in written["files"]:
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b"\n")
        assert read_status(copy) == "changed"
        (copy / name).write_bytes(before)
    assert read_status(copy) == "verified"
    (copy / "predictions" / "more.npz").write_bytes(b"")
    assert read_status(copy) == "changed"
    outcome = verify(bench, made, copy, "--rerun", 1)
    assert outcome.code == 2 and "run again" not in outcome.out
    (copy / "verification.json").write_text("[]")
    assert read_status(copy) == "changed"


def test_what_only_a_run_can_find(made: Path, copy: Path, bench: Bench) -> None:
    """A count that no other cell contradicts is found by the run, and nothing is verified."""
    edit(copy, put("cost", "adaptation_flops", lambda x: x - 1), cell="small full linear 0")
    assert verify(bench, made, copy).code == 0
    outcome = verify(bench, made, copy, "--rerun", 50)
    assert outcome.code == 2
    assert "(small full linear #0): cost.adaptation_flops" in outcome.err
    assert not (copy / "verification.json").exists()
    assert outcome.out.splitlines()[-1] == "status: problems found; not verified"


def test_a_close_choice_is_run_as_it_was_made(made: Path) -> None:
    """Where another L2 is selected now, the recorded one is run; a bad one was not selected."""
    folder = made / "out" / "pixels"
    entries, _ = read_entries(folder)
    entry = find_entry(entries, "small full linear 0")
    task = open_tasks(["small"], task_folder=made / "cards", data=made)["small"]
    assert task.data is not None
    rerun = Rerun(resolve_encoder("pixels"), folder, data={"small": task.data}, device="cpu")
    protocol = load_protocol("quick")
    assert not list(rerun.run(entry, protocol, {}))
    chosen = entry.record.selected["l2"]
    assert protocol.linear is not None
    other = 1e-6 if chosen > 1e-3 else 1.0
    selected = {**entry.record.selected, "l2": other}
    changed = Entry(1, entry.record.model_copy(update={"selected": selected}))
    before = len(rerun.cells)
    problems = list(rerun.run(changed, protocol, {}))
    assert any(f"selected.l2: {other:g}, with log loss" in text for text in problems)
    scores = [
        [cell.again for cell in part] for part in (rerun.cells[:before], rerun.cells[before:])
    ]
    assert len(scores[0]) == len(scores[1]) and scores[0] != scores[1]


def find_entry(entries: list[Entry], cell: str) -> Entry:
    return next(entry for entry in entries if name_cell(entry.record.model_dump()) == cell)


def test_what_comes_out_otherwise_is_found(made: Path) -> None:
    """A score, a count of FLOPs or a failure that differs is a problem; rounding is none."""
    entries, _ = read_entries(made / "out" / "pixels")
    entry = find_entry(entries, "small full linear 0")
    record = entry.record
    assert record.cost is not None

    def differences(**changes: Any) -> list[str]:
        again = record.model_copy(update=changes)
        return list(compare(entry, again, again))

    def score(change: float) -> dict[str, Any]:
        values = record.metrics["in_domain"]
        moved = {**values, "auroc": (values["auroc"] or 0) + change}
        return {**record.metrics, "in_domain": moved}

    assert not differences()
    assert not differences(metrics=score(-0.02))
    assert "beyond" in differences(metrics=score(-0.05))[0]
    cost = record.cost.model_copy(update={"adaptation_flops": 1})
    assert "cost.adaptation_flops" in differences(cost=cost)[0]
    assert "out of memory" in differences(status="failed", error="out of memory")[-1]
    chosen = [[e.line for e in choose_cells(entries, 5)] for _ in range(20)]
    assert len(set(map(tuple, chosen))) > 1 and all(len(set(lines)) == 5 for lines in chosen)
