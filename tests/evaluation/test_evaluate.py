"""`bench evaluate` on small images: its plan, its records, and what changes no number."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import medtransfer
from medtransfer.metrics import evaluate as measure
from medtransfer.metrics import item_weights
from medtransfer.specs.record import read_records
from medtransfer.specs.task import load_suites
from tests.conftest import REAL_DATA, Bench, Small, needs_real_data, write_card, write_npz
from tests.helpers.evaluation import arguments, results, write_encoder
from tests.helpers.replicates import load_arrays


def test_a_whole_evaluation(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Every planned cell becomes one complete record, and the table shows the encoder."""
    encoder = write_encoder(tmp_path)
    planned = bench(*arguments(small, encoder, tmp_path / "out", "--dry-run"))
    assert planned.code == 0, planned.err
    assert not (tmp_path / "out").exists()

    outcome = bench(*arguments(small, encoder, tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    assert "> tiny" in outcome.out
    folder = tmp_path / "out" / "tiny"
    records = read_records(folder / "records.jsonl")
    assert len(records) == 16 and all(record.status == "ok" for record in records)

    total = sum(record.cost.adaptation_flops for record in records if record.cost)
    said = re.search(r"(\d+) of 16 cells to run, ([\d.]+) (\w)FLOP", planned.out)
    assert said and said[1] == "16"
    power = {"M": 6, "G": 9, "T": 12}[said[3]]
    assert float(said[2]) == pytest.approx(total / 10**power, rel=0.06)

    for record in records:
        assert set(record.metrics) == {"in_domain", "again"}
        assert record.metrics["in_domain"]["n"] == 36
        assert record.metrics["in_domain"]["classes_scored"] == 3
        assert record.cost is not None and record.cost.seconds > 0
        assert record.environment["input_size"] == record.environment["native_size"][0] == 16
        assert record.counts == [20 if record.budget == "full" else int(record.budget[:-5])] * 3
        assert (record.predictions is not None) == (record.draw == 0)
    full = {r.adaptation: r for r in records if r.budget == "full"}
    assert full["finetune"].metrics["in_domain"]["auroc"] > 0.8  # type: ignore[operator]


def test_the_plan_knows_that_later_draws_reuse_a_learning_rate(
    small: Small, tmp_path: Path
) -> None:
    """At the full budget draws 1 and 2 of v1 train once, and the dry run counts them so."""
    from medtransfer.evaluation.options import Request
    from medtransfer.evaluation.request import prepare
    from medtransfer.evaluation.setup import build_runner

    request = Request(
        encoder="random-convolutions",
        out=tmp_path / "out",
        data=small.data,
        task_folder=small.cards,
        budgets=("full",),
        adaptations=("finetune",),
    )
    prepared = prepare(request)
    runner = build_runner(prepared)
    first, second, third = (runner.flops(cell) for cell in prepared.cells)
    assert second == third
    # Four learning rates for random weights, each scored on the validation split.
    assert 4 * second < first < 4.1 * second


def test_records_can_be_verified_from_their_arrays(small: Small, tmp_path: Path) -> None:
    """Stored predictions give the stored metrics and replicates exactly; hashes fit."""
    records = medtransfer.evaluate(
        "pixels",
        protocol="quick",
        out=tmp_path,
        data=small.data,
        task_folder=small.cards,
        adaptations=["linear", "knn"],
    )
    labels = np.arange(36) % 3
    weights = item_weights("small", "in_domain", 36)
    for record in records:
        assert record.replicates is not None
        stored = load_arrays(tmp_path / "pixels" / record.replicates.file)
        replicates = stored[f"{record.replicates.key}/in_domain"]
        assert replicates.shape == (200,)
        if record.predictions is None:
            continue
        archive = np.load(tmp_path / "pixels" / record.predictions.file)
        arrays = [archive[f"{record.predictions.key}/{name}"] for name in record.metrics]
        joined = b"".join(array.astype("<f4").tobytes() for array in arrays)
        assert hashlib.sha256(joined).hexdigest() == record.predictions.sha256
        again = measure(arrays[0].astype(np.float64), labels, weights)
        assert again.values.items() <= record.metrics["in_domain"].items()
        np.testing.assert_array_equal(again.replicates["auroc"].astype(np.float32), replicates)


def test_names_change_nothing(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Identical weights under two names give identical metrics."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    for name in ("first", "second"):
        torch.save(network.state_dict(), tmp_path / f"{name}.pt")
        options = ("--architecture", "test_resnet", "--budget", "10-shot", "--jobs", 1)
        outcome = bench(*arguments(small, tmp_path / f"{name}.pt", tmp_path, *options))
        assert outcome.code == 0, outcome.err
    first, second = (results(tmp_path / name / "records.jsonl") for name in ("first", "second"))
    assert first == second


def test_order_of_the_items_does_not_change_the_counts(small: Small, tmp_path: Path) -> None:
    """A permuted copy of a training split gives the same draws' class counts."""
    arrays = write_npz(small.data / "permuted.npz")
    order = np.random.default_rng(3).permutation(60)
    write_npz(
        small.data / "permuted.npz",
        train_images=arrays["train_images"][order],  # type: ignore[index]
        train_labels=arrays["train_labels"][order],  # type: ignore[index]
    )
    write_card(small.cards, "permuted", "permuted.npz")
    records = medtransfer.evaluate(
        "pixels",
        protocol="quick",
        adaptations=["knn"],
        out=tmp_path,
        data=small.data,
        task_folder=small.cards,
    )
    half = len(records) // 2
    by_task = sorted(records, key=lambda record: (record.task.name, record.cell))
    assert [r.counts for r in by_task[:half]] == [r.counts for r in by_task[half:]]


def test_diverged_is_a_result(small: Small, tmp_path: Path) -> None:
    """An encoder that goes to NaN in training is recorded as diverged and not tried again."""
    forward = "images = images * float('nan') if self.training else images"
    encoder = write_encoder(tmp_path, forward=forward)
    records = medtransfer.evaluate(
        encoder,
        protocol="quick",
        budgets=["full"],
        adaptations=["finetune"],
        out=tmp_path / "out",
        data=small.data,
        task_folder=small.cards,
    )
    assert [record.status for record in records] == ["diverged"]
    assert records[0].settled and records[0].metrics == {}


def test_phantoms_are_neither_trivial_nor_hopeless(tmp_path: Path) -> None:
    """A linear probe of raw pixels is above chance on every phantom, and far from perfect."""
    records = medtransfer.evaluate(
        "pixels", protocol="quick", budgets=["full"], adaptations=["linear"], out=tmp_path
    )
    assert len(records) == len(load_suites()["phantom"].tasks) - 1  # whose masks need maps
    for record in records:
        value = record.metrics["in_domain"]["auroc"]
        assert value is not None and 0.55 < value < 0.85, record.cell


@needs_real_data
def test_real_images_pneumonia(tmp_path: Path) -> None:
    """HOG on real X-rays: good in-domain, near chance on the adults of another hospital."""
    (record,) = medtransfer.evaluate(
        "hog",
        protocol="quick",
        tasks=["pneumonia"],
        budgets=["full"],
        adaptations=["linear"],
        out=tmp_path,
        data=REAL_DATA,
        task_folder=REAL_DATA / "tasks",
    )
    inside, adults = (record.metrics[name]["auroc"] for name in ("in_domain", "nih-adult"))
    assert inside is not None and 0.85 < inside < 0.97
    assert adults is not None and 0.3 < adults < 0.7


def test_records_hold_no_paths(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A submission can be published: it names no folder of the machine it was made on."""
    bench(*arguments(small, "pixels", tmp_path, "--adaptation", "knn"))
    text = (tmp_path / "pixels" / "records.jsonl").read_text()
    assert str(tmp_path) not in text and os.environ["BENCH_CACHE"] not in text
