"""What somebody would send on purpose, through the real commands: one line, no harm, no memory."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.lib import format as npy

from tests.conftest import ROOT, Bench, Harmful, Small
from tests.faults.table import Report
from tests.helpers.evaluation import arguments
from tests.helpers.hostile import GIBIBYTE, bomb, refuse


def save_checkpoint(folder: Path, *, legacy: bool) -> Path:
    """A checkpoint with an object beside its tensors."""
    path = folder / "evil.pt"
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "more": Harmful(folder / "harm")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def objects(folder: Path) -> np.ndarray:
    """An array of Python objects."""
    return np.array([Harmful(folder / "harm")] * 3, dtype=object)


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    """A copy of a committed submission."""
    folder = tmp_path / "submissions" / "hog"
    shutil.copytree(ROOT / "submissions" / "hog", folder)
    return folder


@pytest.fixture(autouse=True)
def bounded() -> object:
    """Whatever is read, this process never takes half a gigabyte for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GIBIBYTE // 2


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "pickle"])
def test_a_checkpoint_with_code(legacy: bool, tmp_path: Path, bench: Bench) -> None:
    """It is never run, by evaluate, pretrain or score."""
    path = save_checkpoint(tmp_path, legacy=legacy)
    harm, task = tmp_path / "harm", ("--task", "phantom_ct")
    out = ("--out", tmp_path / "out")
    more = ("--encoder", path, "--architecture", "resnet18", "--protocol", "quick")
    refuse(bench("evaluate", *more, *task, *out), harm, "evil.pt", "never unpickled")
    folder = tmp_path / "evil"
    folder.mkdir()
    shutil.copy(path, folder / "weights.pt")
    card = {
        "name": "evil",
        "architecture": {"timm": "resnet18"},
        "weights": {"path": "weights.pt"},
        "input": {"size": 32},
    }
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    refuse(bench("score", "--encoder", folder, *task, *out), harm, "never unpickled")
    command = ("pretrain", "--recipe", "simclr", "--init", folder, "--epochs", 1)
    refuse(bench(*command, *task, *out), harm, "never unpickled")
    assert not (tmp_path / "out").exists()


def test_arrays_with_code(small: Small, tmp_path: Path, submission: Path, bench: Bench) -> None:
    """Arrays of objects are never unpickled: in data, replicates, predictions or states."""
    harm = tmp_path / "harm"
    with np.load(small.npz) as file:
        arrays = dict(file)
    np.savez(small.npz, **{**arrays, "train_images": objects(tmp_path)})
    refuse(bench(*arguments(small, "pixels", tmp_path / "out")), harm, "never loaded")
    with np.load(submission / "replicates.npz") as file:
        arrays = dict(file)
    name = next(iter(arrays))
    np.savez(submission / "replicates.npz", **{**arrays, name: objects(tmp_path)})
    command = ("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board")
    refuse(bench(*command), harm, "replicates.npz")
    refuse(bench("verify", submission), harm, "replicates.npz", "pickled Python objects")


@pytest.mark.parametrize("what", ["replicates.npz", "predictions/phantom_ct.npz"])
def test_bombs_in_a_submission(what: str, tmp_path: Path, submission: Path, bench: Bench) -> None:
    """A member that unpacks to gigabytes is refused before it is unpacked."""
    path = submission / what
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[0].removesuffix(".npy")
    bomb(path, name, size=GIBIBYTE)
    refuse(bench("verify", submission), tmp_path / "harm", what)
    command = ("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board")
    outcome = bench(*command)
    assert "Traceback" not in outcome.err
    assert outcome.code == (2 if what == "replicates.npz" else 0), outcome.err


def test_bombs_in_data(small: Small, tmp_path: Path, bench: Bench) -> None:
    """A header that claims terabytes is refused by the bytes that are there."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 28, 28)}
    npy.write_array_header_1_0(buffer, header)  # type: ignore[arg-type]
    with np.load(small.npz) as file:
        arrays = {key: array for key, array in file.items() if key != "train_images"}
    np.savez(small.npz, **arrays)
    with zipfile.ZipFile(small.npz, "a") as archive:
        archive.writestr("train_images.npy", buffer.getvalue() + bytes(99))
    refuse(bench(*arguments(small, "pixels", tmp_path / "out")), tmp_path / "harm", "train_images")


@pytest.mark.parametrize("file", ["records.jsonl", "replicates.npz", "encoder.yaml", "predictions"])
def test_links_out_of_a_submission(
    file: str, tmp_path: Path, submission: Path, bench: Bench
) -> None:
    """What a submission links to is somebody else's, and is not read."""
    secret = tmp_path / "secret"
    shutil.move(submission / file, secret)
    (submission / file).symlink_to(secret)
    board = ("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board")
    for command in (("validate", submission), ("verify", submission), board):
        refuse(bench(*command), tmp_path / "harm", file, "link")
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (("name",), "../../evil", "name"),
        (("name",), "/etc/evil", "name"),
        (("weights", "path"), "../../../etc/hostname", "must stay inside the folder"),
        (("weights", "path"), "/etc/hostname", "must stay inside the folder"),
        (("weights", "path"), "link", "must stay inside the folder"),
        (("architecture", "python"), "os:system", "only timm's are available here"),
        (("architecture", "timm"), "../../evil", "timm has no"),
        (("input", "size"), 10**9, "input.size"),
    ],
)
def test_cards_that_lead_astray(
    field: tuple[str, ...], value: object, words: str, tmp_path: Path, bench: Bench
) -> None:
    """A card names no file outside its folder, no code, and no impossible size."""
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/hostname")
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'harm')!r})")
    card: dict[str, object] = {
        "name": "evil",
        "architecture": {"timm": "resnet18"},
        "input": {"size": 32},
    }
    if field == ("architecture", "python"):
        card["architecture"] = {}
    inside = card
    for key in field[:-1]:
        inside = inside.setdefault(key, {})  # type: ignore[assignment]
    inside[field[-1]] = value
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    command = ("evaluate", "--encoder", folder, "--task", "phantom_ct", "--protocol", "quick")
    refuse(bench(*command, "--out", tmp_path / "out"), tmp_path / "harm", words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.mkdir ['harm']", "not valid YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "aliases"),
        ("[" * 100_000, "nest"),
        ("{a: " * 5000, "nest"),
        ("title: " + "9" * 100_000, ""),
        ("title: x\n" * 200_000, "larger than 1 MB"),
        ("title: 2026-99-99", ""),
        ("\x00", "not valid YAML"),
    ],
    ids=["code", "aliases", "deep", "deep mapping", "huge number", "long", "no date", "null byte"],
)
def test_yaml(text: str, words: str, tmp_path: Path, bench: Bench) -> None:
    """No YAML runs code, expands without bound, or ends in a traceback."""
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "evil.yaml").write_text(text)
    refuse(bench("validate", cards), tmp_path / "harm", words)
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "encoder.yaml").write_text(text)
    refuse(bench("validate", folder / "encoder.yaml"), tmp_path / "harm", words)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"schema": ' + b"9" * 10_000 + b"}",
        b'{"schema": 1e999}',
        b'{"schema": NaN}',
        b"\xff" * 100,
        b'{"' + b"a" * 10**6 + b'": 1}',
        b'{"schema": 1, "schema": 1}',
    ],
    ids=["deep", "huge", "infinite", "NaN", "bytes", "long", "twice"],
)
def test_json(line: bytes, tmp_path: Path, submission: Path, bench: Bench) -> None:
    """A line of a ledger that is none ends in a line of a bounded length."""
    path = submission / "records.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    for command in (
        ("validate", submission),
        ("verify", submission),
        ("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board"),
    ):
        outcome = bench(*command)
        refuse(outcome, tmp_path / "harm", "records.jsonl")
        assert max(map(len, outcome.err.splitlines())) < 2000
    assert not (tmp_path / "board").exists()


def test_code_is_run_only_when_it_is_named(tmp_path: Path, submission: Path, bench: Bench) -> None:
    """Python files beside cards, data and submissions are nobody's business."""
    evil = f"import os; os.mkdir({str(tmp_path / 'harm')!r})"
    for name in ("conftest.py", "sitecustomize.py", "encoder.py", "hog.py", "predictions/x.py"):
        (submission / name).write_text(evil)
    bench("validate", submission)
    bench("verify", submission)
    bench("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board")
    bench("compare", "hog", "resnet18", "--submissions", submission.parent)
    assert not (tmp_path / "harm").exists()
    script = tmp_path / "named.py"
    script.write_text(evil)
    task = ("--task", "phantom_ct", "--protocol", "quick", "--out", tmp_path / "out")
    assert bench("evaluate", "--encoder", script, *task).code == 2  # it registers none
    assert (tmp_path / "harm").exists()


def test_text_is_escaped(tmp_path: Path, submission: Path, bench: Bench) -> None:
    """What a card says is neither markup nor code on the board."""
    path = submission / "encoder.yaml"
    card = yaml.safe_load(path.read_text())
    card["title"] = card["licence"] = "</script><script>alert(1)</script> [x](javascript:1) | a\nb"
    path.write_text(yaml.safe_dump(card))
    command = ("leaderboard", "--submissions", submission.parent, "--out", tmp_path / "board")
    outcome = bench(*command)
    assert outcome.code == 0, outcome.err
    for page in (tmp_path / "board").rglob("*"):
        if page.suffix in (".md", ".html"):
            text = page.read_text()
            assert "<script>alert(1)" not in text
            link = re.search(r"(?<!\\)\]\(javascript:", text)  # in markdown; HTML has no such links
            assert page.suffix == ".html" or link is None


def test_safetensors_that_claim_more(tmp_path: Path, bench: Bench, report: Report) -> None:
    """A header of claimed terabytes is refused by the bytes that are there."""
    path = tmp_path / "evil.safetensors"
    for claim in (2**62, 2**40, 100):
        header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
        path.write_bytes(struct.pack("<Q", claim if claim > 100 else len(header)) + header.encode())
        command = ("evaluate", "--encoder", path, "--architecture", "resnet18")
        task = ("--task", "phantom_ct", "--protocol", "quick", "--out", tmp_path / "out")
        refuse(bench(*command, *task), tmp_path / "harm", "not a safetensors file")
    report("safetensors, claims", 3, 0, 0)
