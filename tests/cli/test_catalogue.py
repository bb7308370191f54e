"""`bench list`, `bench show` and `bench data`: what is there, and what would be fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medtransfer.data import official
from medtransfer.data.files import http
from medtransfer.specs.record import read_records
from medtransfer.specs.task import find_task, load_suites, load_tasks
from tests.conftest import REAL_DATA, Bench, Small, needs_real_data, write_card
from tests.helpers.official import md5, official_arrays
from tests.helpers.server import Published, Server, serve

LICENCE = "CC BY 4.0"
FILES = ("breastmnist_224.npz", "pneumoniamnist_224.npz")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Two official files with synthetic content on a local server, whose tables say so."""
    sets = dict(official.array_sets("medmnist"))
    with serve() as running:
        for file in FILES:
            name = file.removesuffix("_224.npz")
            arrays = official_arrays(sets[name], 224)
            np.savez_compressed(tmp_path / file, **arrays)
            body = (tmp_path / file).read_bytes()
            running.files[f"/{file}"] = Published(body)
            items = {split: len(arrays[f"{split}_images"]) for split in ("train", "val", "test")}
            update = {
                "url": f"{running.base}/{{file}}",
                "md5": {**sets[name].md5, 224: md5(body)},
                "items": items,
            }
            sets[name] = sets[name].model_copy(update=update)
        real = official.array_sets
        monkeypatch.setattr(
            official, "array_sets", lambda name: sets if name == "medmnist" else real(name)
        )
        monkeypatch.setattr(http, "BACK_OFF", 0.01)
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
        yield running


def official_card(folder: Path) -> Path:
    """A card of the two files: its sizes are those of the synthetic ones."""
    sources = {
        name: {"medmnist": "breastmnist", "split": split}
        for name, split in (("train", "train"), ("validation", "val"), ("in_domain", "test"))
    }
    chest = {
        "medmnist": "pneumoniamnist",
        "split": "test",
        "select": {"malignant": ["pneumonia"], "normal, benign": ["normal"]},
    }
    fields: dict[str, Any] = {**sources, "out_of_domain": {"chest": chest}}
    path = write_card(folder, "lesions", "", classes=2, **fields)
    card = yaml.safe_load(path.read_text()) | {"classes": ["malignant", "normal, benign"]}
    path.write_text(yaml.safe_dump(card))
    return path


def rows(bench: Bench, *arguments: object) -> dict[str, dict[str, str]]:
    """The rows of a list by their first column."""
    outcome = bench(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    return {next(iter(row.values())): row for row in json.loads(outcome.out)}


def test_official_files_from_the_first_look_to_the_last(
    server: Server, tmp_path: Path, bench: Bench
) -> None:
    """List, plan, fetch through a cut, evaluate, and go on without the downloaded files."""
    cards = official_card(tmp_path / "cards").parent
    data, out = tmp_path / "data", tmp_path / "out"
    options = ("--tasks", cards, "--data", data)
    data.mkdir()

    row = rows(bench, "list", "tasks", *options)["lesions"]
    assert row["data"].startswith("would download ") and row["on disk"] == "-"
    assert row["out-of-domain"] == "chest ?"
    files = rows(bench, "data", "list", "--task", "lesions", *options)
    assert set(files) == set(FILES)
    assert all(f["where"].startswith(f"missing; {server.base}/") for f in files.values())
    assert all(f["licence"] == LICENCE and f["tasks"] == "lesions" for f in files.values())
    assert all(f["size"].startswith("at most ") for f in files.values())

    run = ("evaluate", "--encoder", "pixels", "--protocol", "quick", *options, "--out", out)
    planned = bench(*run, "--adaptation", "knn", "--dry-run")
    assert planned.code == 2 and not server.paths and not out.exists()
    assert planned.err == (
        "error: lesions: breastmnist_224.npz: not downloaded yet; run `bench data fetch` with "
        "the same tasks\n"
    )

    server.files["/breastmnist_224.npz"].cuts = [5000]
    fetched = bench("data", "fetch", "--task", "lesions", *options)
    assert fetched.code == 0, fetched.err
    assert f"licence: {LICENCE}" in fetched.out and "connection lost at" in fetched.out
    assert fetched.out.index("licence") < fetched.out.index("connection lost")
    for file in FILES:
        assert f"{data / file}: complete, MD5 matches" in fetched.out
        assert (data / file).read_bytes() == server.files[f"/{file}"].body
    asked = list(server.paths)
    assert bench("data", "fetch", "--task", "lesions", *options).code == 0

    outcome = bench(*run, "--adaptation", "knn")
    assert outcome.code == 0, outcome.err
    assert server.paths == asked  # nothing is fetched again
    (record, *_) = read_records(out / "pixels" / "records.jsonl")
    assert set(record.metrics) == {"in_domain", "chest"}
    row = rows(bench, "list", "tasks", *options)["lesions"]
    assert row["data"] == "ready" and row["on disk"].endswith("B")
    assert "?" not in row["train / validation / test"] + row["out-of-domain"]

    for file in FILES:  # what is decoded outlives the download
        (data / file).unlink()
    outcome = bench(*run, "--adaptation", "knn")
    assert outcome.code == 0 and server.paths == asked
    shown = json.loads(bench("show", "lesions", *options, "--json").out)
    assert set(shown["splits"]) == {"train", "validation", "in_domain", "chest"}
    assert shown["splits"]["train"]["counts"].keys() == {"malignant", "normal, benign"}


def test_evaluation_downloads_what_is_missing(server: Server, tmp_path: Path, bench: Bench) -> None:
    """Without a fetch the evaluation does it, into the cache, and says the licence first."""
    cards = official_card(tmp_path / "cards").parent
    outcome = bench(
        *("evaluate", "--encoder", "pixels", "--protocol", "quick", "--adaptation", "knn"),
        *("--budget", "full", "--tasks", cards, "--out", tmp_path / "out"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out.index(f"licence: {LICENCE}") < outcome.out.index("lesions full knn")
    assert (tmp_path / "cache" / "downloads" / "medmnist" / FILES[0]).is_file()
    # A folder that is asked for gets its own copy: it may travel to a machine without a network.
    asked = list(server.paths)
    fetched = bench("data", "fetch", "--tasks", cards, "--data", tmp_path / "stick")
    assert fetched.code == 0 and server.paths == asked
    assert all((tmp_path / "stick" / file).read_bytes() for file in FILES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"answers": [(404, {})]}, "404 Not Found"),
        ({"body": b"something else"}, "wrong bytes (MD5 "),
        ({"answers": [(503, {})] * 9}, "503 Service Unavailable (6 attempts)"),
        ({"cuts": [0] * 9}, "connection lost at 0.0 MB"),
    ],
    ids=["404", "wrong bytes", "503", "cuts"],
)
def test_failed_download_is_one_line_and_a_rerun_completes(
    server: Server, tmp_path: Path, bench: Bench, fault: dict[str, Any], message: str
) -> None:
    """Exit code 2, one line on stderr, no result; once the fault is gone the command works."""
    cards = official_card(tmp_path / "cards").parent
    published = server.files["/breastmnist_224.npz"]
    healthy = {name: getattr(published, name) for name in fault}
    healthy |= {name: [] for name in ("answers", "cuts")}
    for name, value in fault.items():
        setattr(published, name, value)
    run = ("evaluate", "--encoder", "pixels", "--protocol", "quick", "--adaptation", "knn")
    run += ("--budget", "full", "--tasks", str(cards), "--out", str(tmp_path / "out"))
    outcome = bench(*run)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert "breastmnist_224.npz: could not be downloaded" in outcome.err
    assert message in outcome.err
    assert not (tmp_path / "out").exists()
    for name, value in healthy.items():
        setattr(published, name, value)
    assert bench(*run).code == 0


def test_offline_says_what_to_put_where(
    server: Server, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the file, its address, licence and place are said."""
    monkeypatch.setenv("BENCH_OFFLINE", "1")
    cards = official_card(tmp_path / "cards").parent
    (tmp_path / "data").mkdir()
    outcome = bench(
        *("evaluate", "--encoder", "pixels", "--protocol", "quick", "--tasks", cards),
        *("--data", tmp_path / "data", "--out", tmp_path / "out"),
    )
    assert outcome.code == 2 and not server.paths
    for part in ("BENCH_OFFLINE", server.base, LICENCE, str(tmp_path / "data" / FILES[0])):
        assert part in outcome.err


@pytest.mark.parametrize("name", sorted(load_tasks()))
def test_every_card_is_listed_and_shown(name: str, bench: Bench) -> None:
    """Each card's row has every column; what it shows says which budgets apply."""
    row = rows(bench, "list", "tasks")[name]
    assert all(value for value in row.values())
    state = "no data folder given" if name.startswith("small") else "would download"
    assert row["data"] == "ready" if name.startswith("phantom") else state in row["data"]
    shown = json.loads(bench("show", name, "--json").out)
    card = load_tasks()[name]
    assert set(shown["splits"]) == {"train", "validation", "in_domain", *card.out_of_domain}
    if shown["splits"]["train"]["items"] is not None:
        assert set(shown["budgets"]) == {"1-shot", "5-shot", "10-shot", "100-shot", "full"}


def test_show_says_where_few_shots_are_too_few(bench: Bench) -> None:
    """Classes with fewer items than shots are named; budgets in disguise do not apply."""
    budgets = json.loads(bench("show", "diabetic_retinopathy", "--json").out)["budgets"]
    assert budgets["10-shot"] == "at most 50 of 1080 items"
    assert budgets["100-shot"] == "at most 500 of 1080 items (4 has 66)"
    budgets = json.loads(bench("show", "phantom_chest_xray", "--json").out)["budgets"]
    assert budgets["full"] == "all 400 items"
    budgets = json.loads(bench("show", "phantom_ct", "--json").out)["budgets"]
    assert budgets["100-shot"] == "at most 300 of 400 items" or "class" in budgets["100-shot"]
    budgets = json.loads(bench("show", "phantom_fundus", "--json").out)["budgets"]
    assert "not applicable" not in budgets["10-shot"]
    budgets = json.loads(bench("show", "phantom_chest_findings", "--json").out)["budgets"]
    assert budgets["100-shot"] == "not applicable: 80% or more of the 400 items"


def test_sizes_of_official_files_are_tasks_of_their_own(bench: Bench) -> None:
    """`pneumonia_28` is the card pneumonia at 28 pixels: another name, other data."""
    cards = load_tasks()
    small = find_task("pneumonia_28", cards)
    assert small is not None and small.name == "pneumonia_28"
    assert {source.size for source in small.sources.values()} == {28}  # type: ignore[attr-defined]
    assert small.splits.keys() == cards["pneumonia"].splits.keys()
    assert cards["pneumonia"].train.size == 224  # type: ignore[attr-defined]
    for name in ("pneumonia_224", "pneumonia_32", "cifar10_28", "phantom_ct_28", "none_28"):
        assert find_task(name, cards) is None
    names = rows(bench, "data", "list", "--suite", "main-28")
    assert {"pneumoniamnist.npz", "chestmnist.npz"} <= set(names)
    assert "pneumonia_28" in names["chestmnist.npz"]["tasks"]
    outcome = bench("evaluate", "--encoder", "pixels", "--task", "pneumonia_32")
    assert outcome.code == 2 and "unknown task 'pneumonia_32'" in outcome.err


def test_few_shot_suite_leaves_out_the_full_budget(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """A suite with budgets runs these alone; they are the suite's, whatever the protocol has."""
    from medtransfer.specs import task

    suite = load_suites()["few-shot"]
    assert suite.budgets == ["1-shot", "5-shot", "10-shot", "100-shot"]
    assert suite.tasks == load_suites()["main-224"].tasks
    mine = {"few-shot": task.Suite(tasks=["small"], budgets=suite.budgets)}
    monkeypatch.setattr(task, "load_suites", lambda: mine)
    outcome = bench(
        *("evaluate", "--encoder", "pixels", "--protocol", "quick", "--suite", "few-shot"),
        *("--tasks", small.cards, "--data", small.data, "--out", tmp_path / "out"),
        *("--adaptation", "knn"),
    )
    assert outcome.code == 0, outcome.err
    records = read_records(tmp_path / "out" / "pixels" / "records.jsonl")
    assert {record.budget for record in records} == {"1-shot", "10-shot"}


def test_damaged_cache_is_rebuilt_and_said(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """A truncated entry of the store is decoded again, and the user is told."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    run = ("evaluate", "--encoder", "pixels", "--protocol", "quick", "--adaptation", "knn")
    run += ("--tasks", str(small.cards), "--data", str(small.data))
    assert bench(*run, "--out", tmp_path / "a").code == 0
    images = next((tmp_path / "cache" / "splits").glob("*/images.npy"))
    images.write_bytes(images.read_bytes()[:200])
    again = bench(*run, "--out", tmp_path / "b")
    assert again.code == 0
    assert f"note: {images.parent}: damaged; decoding the split again" in again.out
    metrics = [
        [(r.cell, r.metrics) for r in read_records(tmp_path / out / "pixels" / "records.jsonl")]
        for out in ("a", "b")
    ]
    assert metrics[0] == metrics[1]


def test_data_folder_that_is_not_there(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A wrong --data is one clear line, for every command that takes it."""
    missing = tmp_path / "nowhere"
    outcome = bench("evaluate", "--encoder", "pixels", "--tasks", small.cards, "--data", missing)
    assert outcome.code == 2 and outcome.err == f"error: --data: {missing} is not a folder\n"
    for command in (["list", "tasks"], ["show", "pneumonia"], ["data", "list"]):
        outcome = bench(*command, "--data", missing)
        assert outcome.code == 2 and outcome.err == f"error: --data: {missing} is not a folder\n"


def test_wrong_choices_are_refused(tmp_path: Path, bench: Bench) -> None:
    """What cannot be meant is one line: two choices of tasks, none, no cell, no folder."""
    run = ("evaluate", "--encoder", "pixels", "--out", tmp_path / "out")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ((*run, "--suite", "phantom", "--task", "phantom_ct"), "give either --suite or --task"),
        (
            (*run, "--suite", "few-shot", "--protocol", "medmnist"),
            "multiclass, finetune (full); ",
        ),
        (("data", "fetch"), "name what to fetch: --suite, --task or --tasks"),
        (("data", "fetch", "--suite", "oct", "--data", tmp_path / "file"), "cannot be written: "),
    ):
        outcome = bench(*arguments)
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1
    assert "nothing to download" in bench("data", "fetch", "--suite", "phantom").out


@needs_real_data
def test_real_cards_are_listed_with_their_data(bench: Bench) -> None:
    """The real cards stand for shipped ones of the same name, and are ready."""
    options = ("--tasks", REAL_DATA / "tasks", "--data", REAL_DATA)
    listed = rows(bench, "list", "tasks", *options)
    assert listed["pneumonia"]["data"] == listed["macular_oct"]["data"] == "ready"
