"""The same cell gives the same bits, however often, beside whom and in whatever order it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.evaluation import evaluate
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import prepare
from medtransfer.evaluation.setup import build_runner
from medtransfer.specs.record import Cell, Record
from tests.conftest import Small, write_card, write_npz
from tests.helpers.evaluation import write_encoder
from tests.helpers.segmentation import MAPS, draw_discs

# What is measured, and so differs from run to run.
MEASURED = ("seconds", "peak_memory_bytes", "energy_joules")


@pytest.fixture
def both(tmp_path: Path) -> Small:
    """A task of classes and a task of masks."""
    data, cards = tmp_path / "data", tmp_path / "cards"
    data.mkdir()
    write_npz(data / "small.npz")
    arrays = {}
    for seed, (split, count) in enumerate((("train", 16), ("val", 6), ("test", 6))):
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = draw_discs(count, seed=seed)
    np.savez(data / "discs.npz", **arrays)
    write_card(cards, "discs", "discs.npz", kind="segmentation", metric="dice")
    return Small(data, cards, data / "small.npz", write_card(cards, "small", "small.npz"))


def contents(record: Record) -> dict[str, Any]:
    """A record without what is measured; the hashes of its arrays are in it."""
    found = record.model_dump(exclude={"started", "finished"})
    for name in MEASURED:
        (found["cost"] or {}).pop(name, None)
    return found


def run(both: Small, encoder: Path, out: Path, **options: Any) -> dict[Cell, dict[str, Any]]:
    """Evaluate, and return each record's contents; the arrays are compared by their hashes."""
    request = Request(
        str(encoder),
        protocol="quick",
        out=out,
        data=both.data,
        task_folder=both.cards,
        device="cpu",
        **{"jobs": 1, **options},
    )
    records = evaluate.run(prepare(request))
    assert all(record.status in ("ok", "not_applicable") for record in records)
    return {record.cell: contents(record) for record in records}


def test_again_in_another_order_and_by_halves(both: Small, tmp_path: Path) -> None:
    """A second run, tasks and adaptations the other way round or by themselves: the same bits."""
    encoder = tmp_path / "maps.py"
    encoder.write_text(MAPS)
    names, budgets = ["knn", "linear", "decoder"], ["10-shot"]
    options: dict[str, Any] = {"adaptations": names, "budgets": budgets}
    first = run(both, encoder, tmp_path / "first", **options)
    assert {cell.adaptation for cell in first} == set(names)
    assert run(both, encoder, tmp_path / "again", **options) == first
    parts: dict[Cell, Any] = {}
    for task in ("small", "discs"):
        for name in reversed(names):
            if (task, name) in {(cell.task, cell.adaptation) for cell in first}:
                chosen = {"tasks": [task], "adaptations": [name], "budgets": budgets}
                parts |= run(both, encoder, tmp_path / "parts", **chosen)
    assert parts == first


def test_one_cell_alone(both: Small, tmp_path: Path) -> None:
    """A cell does not depend on those that ran before it in its process."""
    encoder = write_encoder(tmp_path)
    options: dict[str, Any] = {"tasks": ["small"], "adaptations": ["finetune"]}
    everything = run(both, encoder, tmp_path / "all", tasks=["small"])
    request = Request(
        str(encoder), protocol="quick", data=both.data, task_folder=both.cards, **options
    )
    prepared = prepare(request)
    cell = next(cell for cell in prepared.cells if cell.budget == "10-shot")
    alone, again = (build_runner(prepared).run(cell) for _ in range(2))
    for one in (alone, again):
        own = contents(one.record) | {"replicates": None, "predictions": None}
        expected = everything[cell] | {"replicates": None, "predictions": None}
        assert own == expected
    assert set(alone.predictions) == set(again.predictions)
    for name, array in alone.predictions.items():
        assert np.array_equal(array, again.predictions[name])


def test_a_record_says_what_could_make_a_difference(both: Small, tmp_path: Path) -> None:
    """Versions, commit, weights, precision, sizes, threads, instruction set and device."""
    encoder = write_encoder(tmp_path)
    options: dict[str, Any] = {"tasks": ["small"], "adaptations": ["linear"], "budgets": ["full"]}
    [record] = run(both, encoder, tmp_path / "out", **options).values()
    needed = {"python", "torch", "torchvision", "timm", "numpy", "medtransfer", "commit"}
    needed |= {"weights", "precision", "input_size", "native_size", "threads", "instructions"}
    assert needed <= set(record["environment"])
    assert record["cost"]["device"]
