"""Ranges of a record's numbers: refused where it is read, by the name of the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import InputError
from medtransfer.specs.record import Record, largest_value, read_records
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "records" / "schema-1.jsonl"
LEDGERS = sorted((ROOT / "submissions").glob("*/records.jsonl"))


def write(path: Path, *place: Any) -> Path:
    """Write the first golden record with one value changed; the last argument is the value."""
    line = json.loads(GOLDEN.read_text().splitlines()[0])
    *keys, name, value = place
    inner = line
    for key in keys:
        inner = inner[key]
    inner[name] = value
    path.write_text(json.dumps(line) + "\n")
    return path


@pytest.mark.parametrize(
    "place",
    [
        *[
            ("cost", name, -1)
            for name in (
                "adaptation_flops",
                "inference_flops_per_image",
                "parameters",
                "images_seen",
                "seconds",
                "peak_memory_bytes",
                "energy_joules",
            )
        ],
        ("cost", "trainable_parameters", 10**12),
        ("cost", "seconds", float("inf")),
        ("counts", [10, -1, 10]),
        ("draw", -1),
        ("metrics", "in_domain", "auroc", 1.0000001),
        ("metrics", "in_domain", "brier", 2.1),
        ("metrics", "in_domain", "ece", -0.1),
        ("metrics", "in_domain", "n", -1),
        ("metrics", "again", "accuracy", 10**400),
        ("intervals", "in_domain", "f1", [0.5, 0.4]),
        ("intervals", "again", "f1", [-0.1, 0.4]),
    ],
    ids=lambda place: ".".join(map(str, place))[:60],
)
def test_impossible_numbers_are_refused(place: tuple[Any, ...], tmp_path: Path) -> None:
    """Each is one line that names file, line and field."""
    path = write(tmp_path / "records.jsonl", *place)
    with pytest.raises(InputError) as caught:
        read_records(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: line 1: ") and "\n" not in text
    assert all(str(key) in text for key in place[:-1]), text


@pytest.mark.parametrize(
    "place",
    [
        ("metrics", "in_domain", "brier", 2.0),
        ("metrics", "in_domain", "ece", 1 + 1e-12),  # rounding of a sum
        ("metrics", "in_domain", "auroc", None),
        ("cost", "trainable_parameters", 0),
        ("cost", "peak_memory_bytes", None),
        ("intervals", "in_domain", "f1", [0.5, 0.5]),
    ],
    ids=lambda place: ".".join(map(str, place)),
)
def test_bounds_are_possible(place: tuple[Any, ...], tmp_path: Path) -> None:
    """A number on its bound is read, and so is one that rounding moved past it."""
    assert len(read_records(write(tmp_path / "records.jsonl", *place))) == 1


def test_the_largest_value_of_a_metric() -> None:
    """Of one class it is that of the metric; distances and counts have no bound of their own."""
    assert largest_value("multiclass", "brier") == 2
    assert largest_value("multilabel", "brier") == 1
    assert largest_value("segmentation", "dice/liver") == 1
    assert largest_value("segmentation", "hd95/liver") > 1e9


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.parent.name)
def test_committed_records_still_load(path: Path) -> None:
    """Every committed record is read, and written back as it is."""
    lines = path.read_text().splitlines()
    for line in lines:
        assert (
            json.loads(Record.model_validate_json(line).line()).items() >= json.loads(line).items()
        )
    assert lines
