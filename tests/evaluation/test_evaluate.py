"""`bench evaluate`, the real one, on small images: plan, records, resume, failures."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

import medtransfer
from medtransfer.metrics import evaluate as measure
from medtransfer.metrics import item_weights
from medtransfer.specs.record import read_records
from medtransfer.specs.task import load_suites
from tests.conftest import (
    REAL_DATA,
    Bench,
    Small,
    needs_real_data,
    spawn_bench,
    write_card,
    write_npz,
)
from tests.helpers.replicates import load_arrays

TINY = """
import torch
from medtransfer import EncoderCard, register
from medtransfer.encoders.registry import built_by

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        )

    def forward(self, images):
        {forward}
        return self.layers(images)

def build():
    return Tiny()

register(EncoderCard(name="{name}", architecture=built_by(build), input={{"size": 16}}), build)
"""


def write_encoder(folder: Path, name: str = "tiny", forward: str = "") -> Path:
    """A user's own Python file with a small convolutional network."""
    path = folder / f"{name}.py"
    path.write_text(TINY.format(name=name, forward=forward))
    return path


def arguments(small: Small, encoder: object, out: Path, *more: object) -> list[object]:
    """The options of a quick evaluation on the small task."""
    return [
        *("evaluate", "--encoder", encoder, "--protocol", "quick", "--out", out),
        *("--tasks", small.cards, "--data", small.data, *more),
    ]


def results(ledger: Path) -> dict[Any, Any]:
    """What must not depend on how often a run was interrupted, by cell."""
    lines = [
        json.loads(line)
        for line in ledger.read_bytes().splitlines(keepends=True)
        if line[-1:] == b"\n"
    ]
    names = ("budget", "adaptation", "draw")
    cells = [(line["task"]["name"], *map(line.get, names)) for line in lines]
    assert len(set(cells)) == len(cells), "a cell was written twice"
    return {
        record.cell: (record.status, record.selected, record.metrics, record.intervals)
        for record in read_records(ledger)
    }


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
    from medtransfer.evaluation.executors.local import build_runner
    from medtransfer.evaluation.request import Request, prepare

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


def test_a_finished_evaluation_is_not_run_again(small: Small, tmp_path: Path, bench: Bench) -> None:
    """The same command again runs no cell and changes no byte."""
    command = arguments(small, "pixels", tmp_path, "--adaptation", "knn")
    assert bench(*command).code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "pixels").rglob("*") if p.is_file()}
    again = bench(*command)
    assert again.code == 0 and "[" not in again.out.split("\n")[0]
    assert before == {p: p.read_bytes() for p in (tmp_path / "pixels").rglob("*") if p.is_file()}


def test_kill_9_loses_nothing(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Killed at arbitrary moments and started again, with two processes: the results of one."""
    encoder = write_encoder(tmp_path)
    assert bench(*arguments(small, encoder, tmp_path / "a", "--jobs", 1)).code == 0
    ledger = tmp_path / "b" / "tiny" / "records.jsonl"
    for lines, jobs in ((1, 2), (9, 1), (14, 2)):
        process = spawn_bench(*arguments(small, encoder, tmp_path / "b", "--jobs", jobs))
        while process.poll() is None:
            if ledger.exists() and ledger.read_bytes().count(b"\n") >= lines:
                process.kill()
                break
            time.sleep(0.005)
        process.communicate()
    with ledger.open("a") as file:
        file.write('{"schema": 1, "encoder": {"na')  # what a kill inside a write leaves
    assert bench(*arguments(small, encoder, tmp_path / "b", "--jobs", 1)).code == 0
    assert results(ledger) == results(tmp_path / "a" / "tiny" / "records.jsonl")


def test_interrupt_keeps_what_is_finished(small: Small, tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and one line, also with several processes; the rest is run later."""
    encoder = write_encoder(tmp_path)
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    process = spawn_bench(*arguments(small, encoder, tmp_path / "out", "--jobs", 2))
    while process.poll() is None and not (ledger.exists() and ledger.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in errors
    assert 3 <= len(results(ledger)) < 16


def descendants(process: int) -> list[int]:
    """The numbers of a process's children, and of theirs."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [number for child in map(int, children) for number in (child, *descendants(child))]


def test_workers_end_with_their_driver(small: Small, tmp_path: Path) -> None:
    """A driver that is killed leaves no process behind."""
    encoder = write_encoder(tmp_path)
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    driver = spawn_bench(*arguments(small, encoder, tmp_path / "out", "--jobs", 2))
    while driver.poll() is None and not ledger.exists():
        time.sleep(0.01)
    if not Path(f"/proc/{driver.pid}/task/{driver.pid}/children").exists():
        driver.kill()
        pytest.skip("no list of child processes on this system")
    workers = [Path(f"/proc/{pid}") for pid in descendants(driver.pid)]
    assert len(workers) >= 4  # two workers, the server that forked them, and Python's tracker
    driver.kill()
    driver.communicate()
    for _ in range(600):
        if not any(worker.exists() for worker in workers):
            break
        time.sleep(0.05)
    assert not [worker for worker in workers if worker.exists()]


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


def test_a_failure_is_recorded_and_tried_again(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A cell that crashes is said, the run goes on, and the next run tries that cell again."""
    flag = tmp_path / "broken"
    flag.touch()
    forward = f"""
        import pathlib
        if self.training and pathlib.Path({str(flag)!r}).exists():
            raise RuntimeError("out of luck")
    """
    encoder = write_encoder(tmp_path, forward=forward.strip())
    outcome = bench(*arguments(small, encoder, tmp_path / "out"))
    assert outcome.code == 1
    assert "failed: RuntimeError: out of luck" in outcome.out
    ledger = tmp_path / "out" / "tiny" / "records.jsonl"
    assert sorted({r.status for r in read_records(ledger)}) == ["failed", "ok"]
    lines = len(ledger.read_text().splitlines())

    flag.unlink()
    assert bench(*arguments(small, encoder, tmp_path / "out")).code == 0
    assert {r.status for r in read_records(ledger)} == {"ok"}
    assert len(ledger.read_text().splitlines()) == lines + 2


def test_a_budget_in_disguise_does_not_apply(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A few-shot budget of nearly the whole training split is recorded as not applicable."""
    write_npz(small.data / "few.npz", train=36)
    write_card(small.cards, "few", "few.npz")
    outcome = bench(*arguments(small, "pixels", tmp_path, "--task", "few", "--adaptation", "knn"))
    assert outcome.code == 0, outcome.err
    status = {r.budget: r.status for r in read_records(tmp_path / "pixels" / "records.jsonl")}
    assert status == {"1-shot": "ok", "10-shot": "not_applicable", "full": "ok"}


def test_a_ledger_is_not_mixed(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Records of another protocol, other data or another encoder are never added to."""
    command = arguments(small, "pixels", tmp_path, "--adaptation", "knn")
    assert bench(*command).code == 0
    ledger = tmp_path / "pixels" / "records.jsonl"
    before = ledger.read_bytes()

    def refused(message: str, *changed: object) -> None:
        outcome = bench(*changed)
        assert outcome.code == 2 and message in outcome.err, outcome.err
        assert "--fresh" in outcome.err and len(outcome.err.splitlines()) == 1
        assert ledger.read_bytes() == before

    refused("made under protocol quick, not v1", *(x if x != "quick" else "v1" for x in command))
    images = np.load(small.npz)["test_images"]
    images[0, 0, 0] ^= 1
    write_npz(small.npz, test_images=images)
    refused("other data", *command)
    write_npz(small.npz)
    ledger.write_bytes(before := before.replace(b'"sha256":"', b'"sha256":"0'))
    refused("another encoder of the name pixels", *command)

    outcome = bench(*command, "--fresh")
    assert outcome.code == 0, outcome.err
    assert len(results(ledger)) == 7


def test_fresh_forgets_what_is_asked_for_only(small: Small, tmp_path: Path, bench: Bench) -> None:
    """All else keeps its records and arrays, and it is said how many are forgotten."""
    write_card(small.cards, "other", "small.npz")
    command = arguments(small, "pixels", tmp_path, "--adaptation", "knn")
    assert bench(*command).code == 0
    folder = tmp_path / "pixels"
    before = {record.cell: record for record in read_records(folder / "records.jsonl")}
    replicates = load_arrays(folder / "replicates.npz")
    outcome = bench(*command, "--task", "other", "--budget", "full", "--fresh")
    assert outcome.code == 0, outcome.err
    assert "note: --fresh: forgets 1 of 14 earlier records" in outcome.out
    after = {record.cell: record for record in read_records(folder / "records.jsonl")}
    assert {cell for cell in before if cell.task == "small"} < set(after)
    assert len(after) == 14
    for cell, record in after.items():
        assert record == before[cell] or (cell.task, cell.budget) == ("other", "full")
    kept = load_arrays(folder / "replicates.npz")
    assert {key for key in replicates if key.startswith("small/")} < set(kept)
    assert sum(key.startswith("other/") for key in kept) == 14  # two test splits of each cell
    np.testing.assert_equal(
        {k: kept[k] for k in replicates if k.startswith("small/")},
        {k: v for k, v in replicates.items() if k.startswith("small/")},
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder", "resnt18"], "unknown encoder 'resnt18'; did you mean 'resnet18'?"),
        (["--encoder", "nowhere.pt"], "nowhere.pt: no such file"),
        (["--suite", "fantom"], "unknown suite 'fantom'; did you mean 'phantom'?"),
        (["--task", "phantom_tc"], "unknown task 'phantom_tc'; did you mean 'phantom_ct'?"),
        (["--protocol", "quik"], "unknown protocol 'quik'; did you mean 'quick'?"),
        (["--budget", "10-shots"], "no budget '10-shots'; did you mean '10-shot'?"),
        (["--budget", "5-shot"], "no budget '5-shot'; it has: 1-shot, 10-shot, full"),
        (["--adaptation", "fine-tune"], "no adaptation 'fine-tune'; did you mean 'finetune'?"),
        (["--task", "nope"], "--task: unknown task 'nope' (`bench list tasks` shows the shipped"),
        (["--tasks", "nowhere"], "--tasks: nowhere: no such folder of task cards"),
        (["--encoder", ""], "--encoder: is empty"),
        (["--encodr", "pixels"], "--encodr"),
        (["--jobs", "0"], "--jobs"),
        (["--jobs", "two"], "--jobs"),
        (["--device", "gpu"], "'gpu'"),
        (["--architecture", "resnet18"], "--architecture: only goes with a checkpoint file"),
    ],
)
def test_misspelt_options(
    options: list[str], message: str, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt option ends in exit code 2 and one line that says what would be right."""
    monkeypatch.chdir(tmp_path)
    base = {"--encoder": "pixels", "--protocol": "quick"} | {options[0]: options[1]}
    outcome = bench("evaluate", *(part for pair in base.items() for part in pair))
    assert outcome.code == 2
    assert outcome.err.startswith("error: ") and message in outcome.err, outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "submissions").exists()


def test_output_that_cannot_be_written(small: Small, tmp_path: Path, bench: Bench) -> None:
    """An output that is a file, or that the system refuses, is said before any cell runs."""
    (tmp_path / "file").write_text("mine")
    outcome = bench(*arguments(small, "pixels", tmp_path / "file" / "x"))
    assert outcome.code == 2 and "--out:" in outcome.err
    assert (tmp_path / "file").read_text() == "mine"
    if Path("/proc/self").exists():
        outcome = bench(*arguments(small, "pixels", "/proc/nowhere"))
        assert outcome.code == 2 and "cannot be written" in outcome.err, outcome.err


def test_two_evaluations_do_not_write_into_one_folder(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """While one evaluation writes to a submission, a second one is refused."""
    folder = tmp_path / "pixels"
    folder.mkdir()
    with FileLock(folder / "records.jsonl.lock"):
        outcome = bench(*arguments(small, "pixels", tmp_path))
    assert outcome.code == 2, outcome.err
    said = "another evaluation is writing there; wait for it, or choose another --out"
    assert said in outcome.err
    assert not (folder / "records.jsonl").exists()


def test_a_protocol_without_segmentation_skips_it_saying_so(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """A kind that the protocol does not have is named and left out; alone it is an error."""
    write_card(small.cards, "masks", "small.npz", kind="segmentation", metric="dice")
    command = [x if x != "quick" else "medmnist" for x in arguments(small, "pixels", tmp_path)]
    outcome = bench(*command, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "skipped masks: protocol medmnist has no segmentation" in outcome.out
    alone = bench(*command, "--task", "masks")
    assert alone.code == 2 and "no cell is left to run: protocol medmnist has no segm" in alone.err


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
