"""`bench verify` on submissions that the real command line made, and on what was done to them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.cli import main
from medtransfer.encoders.resolution import locate
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.task import load_tasks
from medtransfer.specs.verification import read_status
from medtransfer.verification.copies import find_copies
from medtransfer.verification.coverage import Coverage, measure_coverage
from medtransfer.verification.entries import Entry, read_entries
from medtransfer.verification.rerun import Rerun, choose_cells, compare
from medtransfer.verification.tasks import open_tasks
from tests.conftest import ROOT, Bench, Outcome, draw_images, write_card, write_npz
from tests.evaluation.test_segmentation import MAPS, draw_discs
from tests.helpers.replicates import load_arrays, save_arrays

Line = dict[str, Any]


def evaluate(folder: Path, encoder: object, *more: object) -> None:
    """Run the real command in this process."""
    arguments = ["evaluate", "--encoder", encoder, "--protocol", "quick", "--out", folder / "out"]
    arguments += ["--tasks", folder / "cards", "--data", folder, *more]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        main()
    assert not end.value.code


def draw_noise(count: int, seed: int = 0) -> Any:
    """Images whose classes are hard to tell apart, so that no two runs score the same."""
    images = draw_images(np.arange(count) % 3, seed=seed + count)
    noise = np.random.default_rng(seed + count).normal(0, 150, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, cards, and the submissions of raw pixels and of a user's own encoder."""
    folder = tmp_path_factory.mktemp("verify")
    counts = {"train": 60, "val": 24, "test": 36}
    hard = {f"{split}_images": draw_noise(count) for split, count in counts.items()}
    write_npz(folder / "small.npz", **hard)
    write_npz(folder / "other.npz", test=33, test_images=draw_noise(33, seed=9))
    noise = {"corrupt": "in_domain", "kinds": ["gaussian-noise"], "severities": [3, 5]}
    other = {"npz": "other.npz", "split": "test"}
    splits = {"elsewhere": other, "corrupted": noise}
    write_card(folder / "cards", "small", "small.npz", out_of_domain=splits)
    write_npz(folder / "few.npz", train=30)
    write_card(folder / "cards", "few", "few.npz")
    probes = ("--adaptation", "knn", "--adaptation", "linear")
    evaluate(folder, "pixels", "--task", "small", *probes)
    evaluate(folder, "pixels", "--task", "few", "--adaptation", "knn")
    arrays: dict[str, Any] = {}
    for seed, (split, items) in enumerate((("train", 20), ("val", 6), ("test", 8))):
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = draw_discs(items, seed=seed)
        arrays[f"{split}_labels"] = None
    write_npz(folder / "discs.npz", **arrays)
    noise = noise | {"severities": [5]}
    kind = {"kind": "segmentation", "metric": "dice", "out_of_domain": {"corrupted": noise}}
    write_card(folder / "cards", "discs", "discs.npz", **kind)
    (folder / "maps.py").write_text(MAPS)
    few = ("--task", "discs", "--budget", "10-shot", "--adaptation", "decoder")
    evaluate(folder, folder / "maps.py", *few)
    return folder


def verify(bench: Bench, made: Path, submission: Path, *more: object) -> Outcome:
    return bench("verify", submission, "--tasks", made / "cards", "--data", made, *more)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the submission of raw pixels."""
    return Path(shutil.copytree(made / "out" / "pixels", tmp_path / "pixels"))


# What may be done to a submission: each function changes a folder.


def edit(
    folder: Path, change: Callable[[Line], object], *, cell: str = "small 10-shot linear 0"
) -> None:
    """Change the record of a cell, or with an empty cell all of them."""
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line for line in lines if not cell or name_cell(line) == cell]
    assert found, cell
    for line in found:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def name_cell(line: Line) -> str:
    return f"{line['task']['name']} {line['budget']} {line['adaptation']} {line['draw']}"


def put(*path: Any) -> Callable[[Line], None]:
    """Set a field: all but the last argument are keys, the last one is the value."""

    def change(line: Line) -> None:
        place: Any = line
        for key in path[:-2]:
            place = place[key]
        place[path[-2]] = path[-1](place[path[-2]]) if callable(path[-1]) else path[-1]

    return change


def rewrite(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays of an archive."""
    arrays = load_arrays(folder / file)
    change(arrays)
    save_arrays(folder / file, arrays)


def repair(folder: Path, field: str, cell: str = "small 10-shot linear 0") -> None:
    """Make the hash of a record's arrays that of what is there now."""

    def change(line: Line) -> None:
        reference = line[field]
        arrays = load_arrays(folder / reference["file"])
        names = dict.fromkeys(name.partition("/")[0] for name in line["metrics"])
        if field == "predictions":
            names = dict.fromkeys(name for name in line["metrics"] if "/" not in name)
        content = b"".join(arrays[f"{reference['key']}/{name}"].tobytes() for name in names)
        reference["sha256"] = hashlib.sha256(content).hexdigest()

    edit(folder, change, cell=cell)


def change_array(
    file: str, key: str, change: Callable[[Any], Any], field: str = "", cell: str = ""
) -> Callable[[Path], None]:
    """Change one array; with a field, also its hash in the record of a cell."""

    def tamper(folder: Path) -> None:
        rewrite(folder, file, lambda arrays: arrays.update({key: change(arrays[key])}))
        if field:
            repair(folder, field, cell or "small 10-shot linear 0")

    return tamper


def change_line(*path: Any, cell: str = "small 10-shot linear 0") -> Callable[[Path], None]:
    return lambda folder: edit(folder, put(*path), cell=cell)


def swap_predictions(folder: Path) -> None:
    def swap(arrays: dict[str, Any]) -> None:
        for split in ("in_domain", "elsewhere"):
            one, two = f"10-shot/knn/{split}", f"10-shot/linear/{split}"
            arrays[one], arrays[two] = arrays[two], arrays[one]

    rewrite(folder, "predictions/small.npz", swap)
    for adaptation in ("knn", "linear"):
        repair(folder, "predictions", f"small 10-shot {adaptation} 0")


def copy_draw(folder: Path) -> None:
    """The record and the replicates of draw 0 stand for those of draw 1."""
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first = next(line for line in lines if name_cell(line) == "small 10-shot linear 0")

    def change(line: Line) -> None:
        keep = {"draw": 1, "predictions": None, "replicates": line["replicates"]}
        line.update({**first, **keep})
        line["replicates"]["sha256"] = first["replicates"]["sha256"]

    edit(folder, change, cell="small 10-shot linear 1")
    replace_replicates(folder, 0)


def replace_replicates(folder: Path, draw: int) -> None:
    """Draw 1 gets the replicates of another draw."""

    def change(arrays: dict[str, Any]) -> None:
        for split in ("in_domain", "elsewhere", "corrupted"):
            source = arrays[f"small/10-shot/linear/{draw}/{split}"]
            arrays[f"small/10-shot/linear/1/{split}"] = source

    rewrite(folder, "replicates.npz", change)
    repair(folder, "replicates", "small 10-shot linear 1")


def double_record(folder: Path) -> None:
    path = folder / "records.jsonl"
    line = json.loads(path.read_text().splitlines()[2])
    line["metrics"]["in_domain"]["auroc"] = 0.99
    path.write_text(json.dumps(line) + "\n" + path.read_text())


def claim_inapplicable(folder: Path) -> None:
    def change(line: Line) -> None:
        empty = {"selected": {}, "counts": [], "metrics": {}, "intervals": {}, "cost": None}
        empty |= {"replicates": None, "predictions": None, "environment": {}}
        line.update({**empty, "status": "not_applicable", "error": "too few items"})

    edit(folder, change)
    rewrite(folder, "replicates.npz", lambda arrays: drop(arrays, "small/10-shot/linear/0/"))
    rewrite(folder, "predictions/small.npz", lambda arrays: drop(arrays, "10-shot/linear/"))


def drop(arrays: dict[str, Any], prefix: str) -> None:
    for name in [name for name in arrays if name.startswith(prefix)]:
        del arrays[name]


def lead_out(folder: Path) -> None:
    shutil.copy(folder / "replicates.npz", folder.parent / "secret.npz")
    edit(folder, put("replicates", "file", "../secret.npz"))


def pickle_array(folder: Path) -> None:
    arrays = load_arrays(folder / "replicates.npz")
    objects = np.array([{"a": 1}] * 200, dtype=object)
    arrays["small/10-shot/linear/0/in_domain"] = objects
    np.savez_compressed(folder / "replicates.npz", allow_pickle=True, **arrays)


def add_member_twice(folder: Path) -> None:
    np.savez(folder / "replicates.npz", **load_arrays(folder / "replicates.npz"))
    with zipfile.ZipFile(folder / "replicates.npz", "a") as archive:
        content = archive.read("small/full/knn/0/in_domain.npy")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("small/full/knn/0/in_domain.npy", content)


def change_card(before: str, after: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        path = folder / "encoder.yaml"
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))

    return tamper


def cut_line(folder: Path) -> None:
    path = folder / "records.jsonl"
    path.write_text(path.read_text()[:-30])


def remove_record(folder: Path) -> None:
    """The worst draw is left out."""
    path = folder / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"linear","draw":1' not in line))


def add_link(folder: Path) -> None:
    (folder / "replicates.npz").rename(folder.parent / "elsewhere.npz")
    (folder / "replicates.npz").symlink_to("../elsewhere.npz")


def add_key(folder: Path) -> None:
    """The eye finds the first of two values, and the reader takes the last."""
    path = folder / "records.jsonl"
    path.write_text(path.read_text().replace('"draw":0', '"draw":5,"draw":0', 1))


def add_mark(folder: Path) -> None:
    path = folder / "records.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def inflate_array(folder: Path) -> None:
    """A small file that is a gigabyte of zeros after a header of 200 numbers."""
    arrays = load_arrays(folder / "replicates.npz")
    with zipfile.ZipFile(folder / "replicates.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
                if name == REPLICATE:
                    for _ in range(2**5):
                        member.write(bytes(2**20))


def swap_draws(folder: Path) -> None:
    """Draw 1 is called 0, and 0 is called 1; replicates, too."""
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first, second = (
        next(line for line in lines if name_cell(line) == f"small 10-shot linear {draw}")
        for draw in (0, 1)
    )
    for name in ("metrics", "intervals", "selected", "counts", "cost"):
        first[name], second[name] = second[name], first[name]
    hashes = first["replicates"]["sha256"], second["replicates"]["sha256"]
    second["replicates"]["sha256"], first["replicates"]["sha256"] = hashes
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def change(arrays: dict[str, Any]) -> None:
        for split in ("in_domain", "elsewhere", "corrupted"):
            one, two = (f"small/10-shot/linear/{draw}/{split}" for draw in (0, 1))
            arrays[one], arrays[two] = arrays[two], arrays[one]

    rewrite(folder, "replicates.npz", change)


def link_predictions(folder: Path) -> None:
    (folder / "predictions").rename(folder.parent / "elsewhere")
    (folder / "predictions").symlink_to("../elsewhere")


REPLICATE = "small/10-shot/linear/0/in_domain"
PREDICTION = "10-shot/linear/in_domain"
LATER = "small 10-shot linear 1"


def nudge(array: Any) -> Any:
    """Move one number by little."""
    changed = array.copy()
    changed[np.argsort(array)[100]] += np.float32(1e-6)  # the middle one, so in no percentile
    return changed


def flip(array: Any) -> Any:
    """Another class for one item; the row still sums to one."""
    changed = array.copy()
    changed[4] = np.roll(changed[4], 1)
    return changed


def spoil(number: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        changed = array.copy()
        changed.flat[3] = number
        return changed

    return change


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "metric": (
        change_line("metrics", "in_domain", "auroc", lambda x: x + 1e-6),
        "linear #0): metrics.in_domain.auroc",
    ),
    "metric of a later draw": (
        change_line("metrics", "elsewhere", "auroc", lambda x: 1 - x / 4, cell=LATER),
        "linear #1): metrics.elsewhere.auroc",
    ),
    "accuracy of a later draw": (
        change_line("metrics", "in_domain", "accuracy", lambda x: x + 0.01, cell=LATER),
        "metrics.in_domain.accuracy",
    ),
    "metric of a corrupted split": (
        change_line("metrics", "corrupted/gaussian-noise/3", "auroc", 0.01),
        "metrics.corrupted.auroc",
    ),
    "metric out of range": (
        change_line("metrics", "in_domain", "brier", 2.5, cell=LATER),
        "metrics.in_domain.brier: 2.5; 0 to 2 is possible",
    ),
    "metric null": (
        change_line("metrics", "in_domain", "ece", None, cell=LATER),
        "metrics.in_domain.ece: None; by the labels",
    ),
    "metric left out": (
        lambda f: edit(f, lambda line: line["metrics"]["in_domain"].pop("ece"), cell=LATER),
        "metrics.in_domain: [",
    ),
    "split left out": (
        lambda f: edit(f, lambda line: line["metrics"].pop("elsewhere"), cell=LATER),
        "metrics: [",
    ),
    "NaN": (change_line("selected", "validation", float("nan")), "line 11: a number is NaN"),
    "interval": (
        change_line("intervals", "in_domain", "auroc", lambda x: [x[0] + 1e-4, x[1]], cell=LATER),
        "intervals.in_domain.auroc, lower end",
    ),
    "interval of another metric": (
        change_line("intervals", "elsewhere", "f1", lambda x: [x[0], x[1] + 1e-6]),
        "intervals.elsewhere.f1, upper end",
    ),
    "interval upside down": (
        change_line("intervals", "elsewhere", "f1", lambda x: x[::-1], cell=LATER),
        "intervals.elsewhere.f1",
    ),
    "replicate": (change_array("replicates.npz", REPLICATE, nudge), "replicates.sha256"),
    "replicate and hash": (
        change_array("replicates.npz", REPLICATE, nudge, "replicates"),
        "replicates.in_domain",
    ),
    "replicates of a later draw and hash": (
        change_array(
            "replicates.npz",
            "small/10-shot/linear/1/in_domain",
            lambda x: x + (1 - x) / 10,
            "replicates",
            LATER,
        ),
        "intervals.in_domain.auroc",
    ),
    "replicate of NaN": (
        change_array("replicates.npz", REPLICATE, spoil(np.nan), "replicates"),
        "in_domain.auroc",
    ),
    "replicates pickled": (
        pickle_array,
        f"replicates.npz: {REPLICATE}: holds pickled Python objects",
    ),
    "replicates left out": (
        lambda f: rewrite(f, "replicates.npz", lambda arrays: drop(arrays, REPLICATE)),
        f"replicates.npz: {REPLICATE}: is missing",
    ),
    "replicates of another shape": (
        change_array("replicates.npz", REPLICATE, lambda x: x[:100], "replicates"),
        "float32 of 200 is expected",
    ),
    "replicates of a better draw": (
        lambda f: replace_replicates(f, 2),
        "replicates: a copy of those of small 10-shot linear #",
    ),
    "prediction": (
        change_array("predictions/small.npz", PREDICTION, flip),
        "predictions.sha256: is not that of 10-shot/linear",
    ),
    "prediction and hash": (
        change_array("predictions/small.npz", PREDICTION, flip, "predictions"),
        "the stored predictions give",
    ),
    "prediction of NaN": (
        change_array("predictions/small.npz", PREDICTION, spoil(np.nan), "predictions"),
        "predictions.in_domain: a probability is not between 0 and 1",
    ),
    "prediction that is no probability": (
        change_array("predictions/small.npz", PREDICTION, spoil(0.999), "predictions"),
        "predictions.in_domain: probabilities not summing to one",
    ),
    "predictions swapped": (swap_predictions, "10-shot knn #0): metrics.in_domain.auroc"),
    "archive damaged": (
        lambda f: (f / "replicates.npz").write_bytes(b"PK"),
        "replicates.npz: cannot be read, damaged",
    ),
    "array of no record": (
        lambda f: rewrite(f, "replicates.npz", lambda a: a.update({"mine": np.zeros(3)})),
        "replicates.npz: 'mine': belongs to no record",
    ),
    "array twice": (add_member_twice, "'small/full/knn/0/in_domain': is there 2 times"),
    "draw copied": (copy_draw, "10-shot linear #1): replicates: a copy of those of small 10-shot"),
    "record twice": (double_record, "cell: is settled in line 1 already"),
    "record left out": (remove_record, "linear/1/in_domain': belongs to no record"),
    "line cut off": (cut_line, "records.jsonl: line 21: has no end"),
    "no JSON": (lambda f: (f / "records.jsonl").write_text("{}\n"), "records.jsonl: line 1: "),
    "n": (change_line("metrics", "elsewhere", "n", 36, cell=LATER), "n: 36; the split has 33"),
    "classes_scored": (
        change_line("metrics", "elsewhere", "classes_scored", 2, cell=LATER),
        "classes_scored: 2; the labels give 3",
    ),
    "counts": (change_line("counts", [10, 10, 20]), "counts: [10, 10, 20]; draw 0 of the data"),
    "chance": (change_line("task", "chance", 0.2), "task.chance: 0.2; auroc has 0.5"),
    "domain": (change_line("task", "domain", "oct"), "task.domain: oct; the task's card says ct"),
    "task fingerprint": (change_line("task", "fingerprint", "0" * 64), "task.fingerprint: 000"),
    "task unknown": (change_line("task", "name", "smaller"), "no card is called 'smaller'"),
    "protocol": (change_line("protocol", "name", "quik"), "'quik' is no protocol; did you mean"),
    "protocol fingerprint": (
        change_line("protocol", "fingerprint", "0" * 64),
        "protocol.fingerprint: 000",
    ),
    "budget": (change_line("budget", "5-shot"), "'5-shot'; of linear protocol quick has 1-shot"),
    "draw": (change_line("draw", 3, cell=LATER), "draw: 3; protocol quick has 0 to 2"),
    "adaptation": (change_line("adaptation", "decoder"), "adaptation: 'decoder'; for multiclass"),
    "encoder hash": (
        lambda f: edit(f, put("encoder", "sha256", "0" * 64), cell=""),
        "encoder.sha256: 000",
    ),
    "encoder name": (change_line("encoder", "name", "pixel"), "encoder.name: pixel; encoder.yaml"),
    "card's input": (change_card("size: ", "size: 1"), "encoder.yaml: input: not that of the"),
    "card's pre-training": (
        change_card("pretraining:", "pretraining:\n  images_seen: 5\n  init: resnet18 #"),
        "encoder.yaml: ",
    ),
    "selected": (change_line("selected", "l2", 0.5), "selected.l2: 0.5; the protocol offers 1e-06"),
    "selected neighbours": (
        change_line("selected", "neighbours", 20, cell="small 10-shot knn 1"),
        "selected.neighbours: 20; the protocol offers 10",
    ),
    "FLOPs": (
        change_line("cost", "adaptation_flops", lambda x: x // 2, cell=LATER),
        "10-shot linear #1): cost.adaptation_flops",
    ),
    "parameters": (
        change_line("cost", "parameters", lambda x: x - 1, cell=LATER),
        "cost.parameters: ",
    ),
    "images seen": (change_line("cost", "images_seen", 29), "images_seen: 29; the draw has 30"),
    "seconds": (change_line("cost", "seconds", -1.0), "cost.seconds: -1; it cannot be negative"),
    "too many seconds": (change_line("cost", "seconds", 9e5), "cost.seconds: 900000; it started"),
    "finished": (
        change_line("finished", "2020-01-01T00:00:00+00:00"),
        "finished: '2020-01-01T00:00:00+00:00' is before it started",
    ),
    "in the future": (
        change_line("finished", "2999-01-01T00:00:00+00:00"),
        "finished: '2999-01-01T00:00:00+00:00' is in the future",
    ),
    "key twice": (add_key, "records.jsonl: line 1: 'draw' is there twice; keep one"),
    "mark before the first line": (add_mark, "records.jsonl: line 1: the document: Invalid JSON"),
    "bomb": (inflate_array, f"{REPLICATE}: cannot be read, damaged: not the bytes of shape"),
    "draws swapped": (swap_draws, "10-shot linear #0): metrics.in_domain.auroc"),
    "predictions left out": (
        lambda f: (f / "predictions" / "small.npz").unlink(),
        "predictions/small.npz: is missing, but a record needs it",
    ),
    "linked folder": (link_predictions, "predictions: a link; only plain files"),
    "weights": (change_line("environment", "weights", "0" * 64), "environment.weights: 000"),
    "failed called ok": (
        change_line("status", "ok", cell="few 10-shot knn 0"),
        "few 10-shot knn #0): ",
    ),
    "applicable called not": (claim_inapplicable, "status: 'not_applicable', but the budget"),
    "another file": (lambda f: (f / "run.py").write_text("print()"), "run.py: belongs to no"),
    "link": (add_link, "replicates.npz: a link"),
    "path that leads out": (
        lead_out,
        "replicates.file: '../secret.npz'; 'replicates.npz' is right",
    ),
    "key": (
        change_line("replicates", "key", "small/10-shot/linear/1"),
        "replicates.key: 'small/10-shot/linear/1'; 'small/10-shot/linear/0' is right",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(kind: str, made: Path, copy: Path, bench: Bench) -> None:
    """Each kind of tampering ends in exit code 2 and a line that names what was changed."""
    tamper, message = TAMPERINGS[kind]
    tamper(copy)
    outcome = verify(bench, made, copy)
    lines = outcome.err.splitlines()
    assert outcome.code == 2, outcome.out
    assert message in outcome.err, outcome.err
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) <= 15, outcome.err


def test_what_was_not_touched_passes(made: Path, copy: Path, bench: Bench) -> None:
    """An untouched submission passes every check, and so it does in another order of lines."""
    outcome = verify(bench, made, copy)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "right: cards: 3 not_applicable, 18 ok; encoder pixels, identity computed" in outcome.out
    assert "right: recomputed: 8 cells of draw 0 from their predictions" in outcome.out
    assert "note: missing: few 1-shot linear #0, " in outcome.out
    assert outcome.out.splitlines()[-1] == (
        "status: declared: 21 cells; 11 of the 32 ranked cells of these tasks, protocol quick, are "
        "missing; --rerun 3 runs some of them again, which makes it verified"
    )
    path = copy / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    np.random.default_rng(0).shuffle(lines)
    path.write_text("".join(lines))
    outcome = verify(bench, made, copy)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err


def test_single_neighbours_may_agree() -> None:
    """Of an encoder that was trained on a task, two draws of one image a class can be alike.

    A copied draw of anything but single neighbours is still found.
    """
    folder = ROOT / "submissions" / "resnet_mini-phantom-xray-supervised"
    with np.load(folder / "replicates.npz", allow_pickle=False) as file:
        arrays = {}
        for entry in read_entries(folder)[0]:
            if (reference := entry.record.replicates) is not None:
                names = ("in_domain", "other-scanner")
                arrays[entry] = {name: file[f"{reference.key}/{name}"] for name in names}
    alike = [e for e in arrays if str(e.record.cell).startswith("phantom_chest_xray 1-shot knn")]
    assert np.array_equal(arrays[alike[0]]["in_domain"], arrays[alike[2]]["in_domain"])
    assert list(find_copies(arrays)) == []
    several = [entry for entry in arrays if "10-shot linear" in str(entry.record.cell)]
    [fault] = find_copies({**arrays, several[1]: arrays[several[0]]})
    assert "replicates: a copy of those of" in fault


def test_masks_of_an_encoder_that_is_not_at_hand(made: Path, tmp_path: Path, bench: Bench) -> None:
    """Masks are compared again; the identity of a user's own code is said to be declared."""
    copy = Path(shutil.copytree(made / "out" / "maps", tmp_path / "maps"))
    outcome = verify(bench, made, copy)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "note: encoder.sha256: declared" in outcome.out
    assert "right: recomputed: 1 cells" in outcome.out
    cell = "discs 10-shot decoder 0"
    for number, message in ((1, "metrics.in_domain.dice"), (7, "predicted must be 0 to 2")):
        change_array(
            "predictions/discs.npz",
            "10-shot/decoder/in_domain",
            lambda masks, number=number: np.full_like(masks, number),
            "predictions",
            cell,
        )(copy)
        outcome = verify(bench, made, copy)
        assert outcome.code == 2 and message in outcome.err, outcome.err
    refused = verify(bench, made, made / "out" / "maps", "--rerun", 1)
    assert refused.code == 2 and refused.out == ""
    assert "neither shipped nor installed; name its .py file with --encoder" in refused.err


def test_the_encoder_may_be_named(made: Path, tmp_path: Path, bench: Bench) -> None:
    """With --encoder the user's own code is run again; other code is refused, in one line."""
    copy = Path(shutil.copytree(made / "out" / "maps", tmp_path / "maps"))
    other = tmp_path / "maps.py"
    other.write_text(MAPS + "\n")
    refused = verify(bench, made, copy, "--encoder", other)
    assert refused.code == 2 and refused.out == ""
    assert "maps.py' is another one than was evaluated" in refused.err
    assert len(refused.err.splitlines()) == 1
    outcome = verify(bench, made, copy, "--encoder", made / "maps.py", "--rerun", 1)
    assert outcome.code == 0, outcome.err
    assert "identity computed from the card" in outcome.out
    assert "right: run again: discs 10-shot decoder #0" in outcome.out
    assert "status: verified: 1 cells; " in outcome.out


def test_a_name_is_no_file(
    made: Path, copy: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the encoder's name in the current folder is not taken for its weights."""
    (copy.parent / "elsewhere").mkdir()
    monkeypatch.chdir(copy.parent / "elsewhere")
    Path("pixels").touch()
    outcome = verify(bench, made, copy, "--encoder", "pixels")
    assert outcome.code == 0, outcome.err


def test_weights_that_are_not_beside_the_card(made: Path, tmp_path: Path, bench: Bench) -> None:
    """They are named with --encoder, or laid beside the card; others are refused."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    own, name = tmp_path / "own", "tiny"
    own.mkdir()
    for file, seed in (("weights.pt", 0), ("others.pt", 1)):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), own / file)
    card = {"name": name, "architecture": {"timm": "test_vit"}, "input": {"size": 160}}
    card["weights"] = {"path": "weights.pt"}
    (own / "encoder.yaml").write_text(json.dumps(card))
    for part in ("cards", "few.npz"):
        (tmp_path / part).symlink_to(made / part)
    evaluate(tmp_path, own, "--task", "few", "--budget", "1-shot", "--adaptation", "knn")
    folder = tmp_path / "out" / name
    refused = verify(bench, made, folder, "--rerun", 1)
    assert refused.code == 2 and refused.out == ""
    assert "weights.path: 'weights.pt' is not beside it; put the weights there, or" in refused.err
    refused = verify(bench, made, folder, "--encoder", own / "others.pt")
    assert refused.code == 2 and "others.pt' is another one than was evaluated" in refused.err
    for encoder in (own / "weights.pt", own):
        outcome = verify(bench, made, folder, "--encoder", encoder, "--rerun", 1)
        assert outcome.code == 0 and "status: verified: 3 cells; " in outcome.out, outcome.err
    shutil.copy(own / "weights.pt", folder)
    outcome = verify(bench, made, folder, "--rerun", 1)
    assert outcome.code == 0 and "status: verified: " in outcome.out, outcome.err


def test_another_encoders_results_are_known(made: Path, copy: Path, bench: Bench) -> None:
    """The results of one encoder under two names are found from either, whatever the hashes say."""
    thief = copy.parent / "mine"
    shutil.copytree(copy, thief)
    change_card("name: pixels", "name: mine")(thief)
    edit(thief, put("encoder", "name", "mine"), cell="")
    rewrite(thief, "predictions/small.npz", lambda arrays: arrays.update(nudge_all(arrays)))
    repair(thief, "predictions")
    outcome = verify(bench, made, thief)
    assert outcome.code == 2 and "replicates: those of encoder 'pixels' in " in outcome.err
    # Of the cells of single neighbours, which can coincide, nothing is said.
    assert "(and so in 10 more records)" in outcome.err, outcome.err
    outcome = verify(bench, made, copy)
    assert outcome.code == 2 and "replicates: those of encoder 'mine' in " in outcome.err


def nudge_all(arrays: dict[str, Any]) -> dict[str, Any]:
    """Probabilities that differ in the last bits, so that all hashes do."""
    name = "10-shot/linear/in_domain"
    return {name: np.nextafter(arrays[name], np.float32(0.5))}


def test_where_the_folder_is(made: Path, copy: Path, bench: Bench) -> None:
    """A misspelt folder, one of several submissions and a renamed one are each one clear line."""
    for folder, message in (
        (made / "out" / "pixel", "no such folder; did you mean 'pixels'?"),
        (made / "out", "holds no encoder.yaml; the folder of a submission is expected; name one "),
        (made / "cards", "holds no encoder.yaml; the folder of a submission is expected\n"),
    ):
        outcome = verify(bench, made, folder)
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.err and len(outcome.err.splitlines()) == 1
    outcome = verify(bench, made, copy.rename(copy.parent / "renamed"))
    assert outcome.code == 2 and "but the folder is 'renamed'" in outcome.err


def test_the_suite_is_what_the_tasks_are_of() -> None:
    """A part of a suite is counted against the whole; tasks of several, or a user's own, alone."""
    cards = load_tasks()
    protocol = load_protocol("quick")

    def measure(*names: str) -> Coverage:
        [found] = measure_coverage([], {name: cards[name] for name in names}, [protocol])
        return found

    whole = measure("phantom_ct")
    assert (whole.of, whole.planned, len(whole.missing)) == ("suite phantom", 100, 100)
    part = measure("phantom_lungs", "phantom_organs")
    assert part.of == "suite phantom-segmentation"
    assert measure("organ_axial", "organ_coronal", "organ_sagittal").of == "suite ct"
    mixed = measure("phantom_ct", "phantom_organs")
    assert mixed.of == "these tasks" and {cell.task for cell in mixed.missing} == {
        "phantom_ct",
        "phantom_organs",
    }


def test_absent_data_are_said(made: Path, copy: Path, bench: Bench, tmp_path: Path) -> None:
    """Without its data a task is called not recomputed; what needs none is still checked."""
    command = ("verify", copy, "--tasks", made / "cards", "--data", tmp_path)
    outcome = bench(*command)
    assert outcome.code == 0, outcome.err
    assert "note: not recomputed: small, 14 cells: " in outcome.out
    assert "right: recomputed: 0 cells" in outcome.out
    refused = bench(*command, "--rerun", 1)
    assert refused.code == 2 and "the data of few, small are not at hand" in refused.err
    edit(copy, put("task", "domain", "oct"))
    assert bench(*command).code == 2


def test_a_hostile_ledger_is_one_line_each(made: Path, copy: Path, bench: Bench) -> None:
    """Escape codes, endless names, deep lists and huge numbers end in lines, not in tracebacks."""
    edit(copy, put("budget", "\x1b[2J\n" + "x" * 100_000))
    edit(copy, put("cost", "adaptation_flops", 10**400), cell=LATER)
    edit(copy, put("selected", {"l2": [[]], "lr": {}}), cell="small full linear 0")
    edit(copy, put("metrics", {"../../x": {"auroc": 1}}), cell="small full knn 0")
    outcome = verify(bench, made, copy)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    lines = outcome.err.splitlines()
    assert all(line.startswith("error: ") and len(line) < 1100 for line in lines), outcome.err
    assert "\x1b" not in outcome.err
    assert bench("verify", copy / "predictions").code == 2


def test_a_line_that_cannot_be_read(made: Path, copy: Path, bench: Bench) -> None:
    """It is one line of error: its arrays and files are not said to belong to no record."""
    ledger = copy / "records.jsonl"
    first, *rest = ledger.read_bytes().splitlines(keepends=True)
    for lines in ([first.replace(b'"draw":', b'"drew":'), *rest], [b"{}\n"]):
        ledger.write_bytes(b"".join(lines))
        outcome = verify(bench, made, copy)
        assert outcome.code == 2 and outcome.err.startswith("error: records.jsonl: line 1: ")
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.out.endswith("status: not right, so nothing was verified\n")
    assert "0 cells" not in outcome.out
    assert "a file; the folder of a submission is expected" in bench("verify", ledger).err


def test_validate_follows_no_path_out(made: Path, copy: Path, bench: Bench) -> None:
    """`bench validate` looks at no file outside the submission."""
    assert bench("validate", copy).code == 0
    lead_out(copy)
    outcome = bench("validate", copy)
    assert outcome.code == 2 and "'replicates.npz' is right" in outcome.err


def test_verifying_needs_no_torch(made: Path) -> None:
    """Only masks and cells that are run again need torch."""
    options = ["--tasks", str(made / "cards"), "--data", str(made)]
    code = f"""
import sys
sys.argv = ["bench", "verify", {str(made / "out" / "pixels")!r}, *{options!r}]
from medtransfer.cli import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", sorted({{"torch", "timm"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []", run.stdout
    assert "right: recomputed" in run.stdout


def test_cells_are_run_again(made: Path, copy: Path, bench: Bench) -> None:
    """Cells that come out the same make it verified, until one byte of a file changes."""
    outcome = verify(bench, made, copy, "--rerun", 50)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert outcome.out.count("right: run again: ") == 18
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
    assert outcome.out.splitlines()[-1] == "status: not right, so nothing was verified"


def test_a_close_choice_is_run_as_it_was_made(made: Path) -> None:
    """Where another L2 is selected now, the recorded one is run; a bad one was not selected."""
    folder = made / "out" / "pixels"
    entries, _ = read_entries(folder)
    entry = find_entry(entries, "small full linear 0")
    task = open_tasks(["small"], task_folder=made / "cards", data=made)["small"]
    assert task.data is not None
    rerun = Rerun(locate("pixels"), folder, data={"small": task.data}, device="cpu")
    protocol = load_protocol("quick")
    assert not list(rerun.run(entry, protocol, {}))
    chosen = entry.record.selected["l2"]
    assert protocol.linear is not None
    other = 1e-6 if chosen > 1e-3 else 1.0
    selected = {**entry.record.selected, "l2": other}
    changed = Entry(1, entry.record.model_copy(update={"selected": selected}))
    before = len(rerun.cells)
    problems = list(rerun.run(changed, protocol, {}))
    assert any(f"selected.l2: {other:g}, of which the log loss" in text for text in problems)
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
