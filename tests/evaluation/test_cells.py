"""One plan: every filter is applied in it, and the records are just its cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.core.errors import InputError
from medtransfer.evaluation.cells import plan_cells
from medtransfer.evaluation.evaluate import run
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import prepare
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.record import read_records
from medtransfer.specs.task import load_tasks
from tests.conftest import Small, write_card, write_npz

QUICK = load_protocol("quick")
CARDS = load_tasks()
MASKS = next(name for name, card in CARDS.items() if card.kind == "segmentation")
CLASSES = next(name for name, card in CARDS.items() if card.kind == "multiclass")
BOTH = {name: CARDS[name] for name in (MASKS, CLASSES)}


def test_a_plan_is_what_the_records_contain(small: Small, tmp_path: Path) -> None:
    """Each cell of the plan has a record, in order, whose status the plan has foreseen."""
    write_npz(small.data / "few.npz", train=36)
    write_card(small.cards, "few", "few.npz")
    request = Request(
        "pixels",
        adaptations=("knn",),
        task_folder=small.cards,
        protocol="quick",
        data=small.data,
        out=tmp_path / "out",
        jobs=1,
    )
    prepared = prepare(request)
    plan = prepared.plan()
    records = run(prepared)
    assert [record.cell for record in records] == list(plan.cells) == list(prepared.cells)
    written = {
        record.cell: record for record in read_records(tmp_path / "out/pixels/records.jsonl")
    }
    assert set(written) == set(plan.cells)
    reasons = {cell: record.error for cell, record in written.items() if record.error}
    assert reasons == plan.not_applicable
    assert {cell.task for cell in reasons} == {"few"}
    assert {record.status for record in records} == {"ok", "not_applicable"}
    again = prepare(request)
    assert not again.pending
    assert run(again) == records


def test_what_the_encoder_cannot_do_is_no_part_of_the_plan() -> None:
    """One adaptation is named with its task, a task by itself when nothing of it is left."""
    whole = plan_cells(BOTH, QUICK)
    assert not whole.notes
    names = QUICK.adaptations("segmentation")
    some = plan_cells(BOTH, QUICK, limits={("segmentation", names[0]): "gives no maps"})
    assert some.cells == tuple(
        c for c in whole.cells if (c.task, c.adaptation) != (MASKS, names[0])
    )
    every = {("segmentation", name): "gives no maps" for name in names}
    left = plan_cells(BOTH, QUICK, limits=every)
    assert left.cells == tuple(cell for cell in whole.cells if cell.task == CLASSES)
    assert left.notes == (f"skipped {MASKS}: gives no maps",)
    with pytest.raises(InputError, match="gives no maps"):
        plan_cells({MASKS: CARDS[MASKS]}, QUICK, limits=every)


def test_budgets_that_do_not_apply_stay_in_the_plan() -> None:
    """They are cells with a reason, the same for every encoder."""
    whole = plan_cells({CLASSES: CARDS[CLASSES]}, QUICK)
    few = plan_cells({CLASSES: CARDS[CLASSES]}, QUICK, items={CLASSES: 2})
    assert few.cells == whole.cells and not whole.not_applicable
    assert set(few.not_applicable) == {cell for cell in few.cells if cell.budget != "full"}
