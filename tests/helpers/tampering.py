"""Changes to a submission that its verification must notice."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.cli import main
from tests.conftest import Bench, Outcome, draw_images
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


def verify(bench: Bench, made: Path, submission: Path, *more: object) -> Outcome:
    return bench("verify", submission, "--tasks", made / "cards", "--data", made, *more)


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


def nudge_all(arrays: dict[str, Any]) -> dict[str, Any]:
    """Probabilities that differ in the last bits, so that all hashes do."""
    name = "10-shot/linear/in_domain"
    return {name: np.nextafter(arrays[name], np.float32(0.5))}
