"""The Ray executor: what travels, and a real cluster of three nodes of which one dies."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from medtransfer.core.errors import InputError
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import prepare
from medtransfer.evaluation.setup import build_runner, pack_files, set_up_worker
from medtransfer.specs.record import read_records
from tests.conftest import Bench, Small, spawn_bench
from tests.helpers.cluster import Nodes
from tests.helpers.evaluation import arguments, results, write_encoder

pytestmark = pytest.mark.xdist_group("ray")


def write_folder(folder: Path, *, name: str | None = "mine") -> Path:
    """An encoder's folder, with weights in a folder of their own."""
    import timm

    torch.manual_seed(3)
    (folder / "inner").mkdir(parents=True)
    network = timm.create_model("resnet10t", num_classes=0)
    save_file(network.state_dict(), folder / "inner" / "w.safetensors")
    card: dict[str, Any] = {
        "architecture": {"timm": "resnet10t"},
        "weights": {"path": "inner/w.safetensors"},
        "input": {"size": 32},
    }
    if name is not None:
        card["name"] = name
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    return folder


def write_script(folder: Path) -> Path:
    """A Python file whose card names weights beside it."""
    folder.mkdir()
    path = write_encoder(folder, "scripted")
    text = path.read_text().replace("input=", 'weights={"path": "s.pt"}, input=')
    path.write_text(text)
    scope: dict[str, Any] = {}
    exec(text.partition("register(")[0], scope)
    torch.manual_seed(4)
    torch.save(scope["build"]().state_dict(), folder / "s.pt")
    return path


ENCODERS: dict[str, Callable[[Path], tuple[Path | str, str | None]]] = {
    "a name": lambda folder: ("hog", None),
    "a folder": lambda folder: (write_folder(folder / "e"), None),
    "a folder that names the encoder": lambda folder: (write_folder(folder / "e", name=None), None),
    "a checkpoint": lambda folder: (
        write_folder(folder / "e") / "inner/w.safetensors",
        "resnet10t",
    ),
    "a Python file": lambda folder: (write_script(folder / "e"), None),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_what_travels(kind: str, small: Small, tmp_path: Path) -> None:
    """The receiver, who has none of the driver's files but data, gets the very same encoder."""
    (tmp_path / "e").parent.mkdir(exist_ok=True)
    encoder, architecture = ENCODERS[kind](tmp_path)
    request = Request(
        str(encoder),
        architecture=architecture,
        task_folder=small.cards,
        protocol="quick",
        data=small.data,
        out=tmp_path / "out",
    )
    prepared = prepare(request)
    runner = build_runner(prepared)
    setup = pack_files(set_up_worker(prepared, runner, threads=1), prepared.encoder)
    setup = pickle.loads(pickle.dumps(setup))
    shutil.rmtree(tmp_path / "e", ignore_errors=True)
    shutil.rmtree(small.cards)
    received = setup.build()
    assert received.encoder.identity == runner.encoder.identity
    assert received.encoder.weights_sha256 == runner.encoder.weights_sha256
    assert received.encoder.card == runner.encoder.card
    own, other = (one.data["small"].fingerprint for one in (runner, received))
    assert own == other
    assert not (tmp_path / "out").exists()
    for change, message in (
        ({"version": "9.9"}, "9.9 on the driver"),
        ({"fingerprints": {"small": "0"}}, "other data of task small"),
        ({"weights": "0"}, "than the driver's"),
    ):
        with pytest.raises(InputError, match=message):
            replace(setup, **change).build()


def test_wrong_options(small: Small, tmp_path: Path, bench: Bench) -> None:
    """One line, before anything is started or written."""
    for options, message in (
        (("--executor", "slurm"), "--executor: 'slurm' is not one of local, ray"),
        (("--address", "auto"), "--address: names a Ray cluster; add --executor ray"),
        (("--executor", "ray", "--device", "cuda:1"), "--device: cuda:1: Ray chooses the GPU"),
    ):
        outcome = bench(*arguments(small, "pixels", tmp_path / "out", *options))
        assert outcome.code == 2 and message in outcome.err, outcome.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A cluster of one node."""
    pytest.importorskip("ray")
    found = Nodes()
    yield found
    found.process.communicate(timeout=60)


def test_nodes_die_and_join(nodes: Nodes, small: Small, tmp_path: Path, bench: Bench) -> None:
    """Of three nodes one is killed and another added: every cell once, as on one machine.

    Without the driver's own node all ends, which is no cell's fault; the rest is run later.
    """
    encoder = write_encoder(tmp_path)
    assert bench(*arguments(small, encoder, tmp_path / "alone", "--jobs", 1)).code == 0
    expected = results(tmp_path / "alone" / "tiny" / "records.jsonl")
    options = ("--executor", "ray", "--address", nodes.address, "--jobs")

    def start(out: Path, jobs: int) -> tuple[subprocess.Popen[str], Path]:
        """Start an evaluation on the cluster, and wait for its first record."""
        ledger = out / "tiny" / "records.jsonl"
        process = spawn_bench(*arguments(small, encoder, out, *options, jobs))
        while process.poll() is None and not (ledger.exists() and ledger.stat().st_size):
            time.sleep(0.01)
        assert process.poll() is None
        return process, ledger

    nodes.ask("add")
    nodes.ask("add")
    process, ledger = start(tmp_path / "out", 3)
    nodes.ask("kill")
    nodes.ask("add")
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "on a Ray cluster of 3 nodes, with room for 3 at a time" in out
    assert results(ledger) == expected

    process, ledger = start(tmp_path / "cut", 1)
    nodes.ask("behead")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors  # newer Ray may end the process before it has said anything
    before = results(ledger)
    assert {record.status for record in read_records(ledger)} == {"ok"} and len(before) < 16
    assert bench(*arguments(small, encoder, tmp_path / "cut", "--jobs", 1)).code == 0
    assert results(ledger) == expected


def test_without_a_cluster(small: Small, tmp_path: Path, bench: Bench) -> None:
    """An address at which nobody answers is one line, and nothing is written."""
    pytest.importorskip("ray")
    options = ("--executor", "ray", "--address", "127.0.0.1:1")
    outcome = bench(*arguments(small, "pixels", tmp_path / "out", *options))
    assert outcome.code == 2, outcome.err
    assert "--address: no Ray cluster answers at 127.0.0.1:1" in outcome.err
    assert outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_one_machine(small: Small, tmp_path: Path, trap: Path, bench: Bench) -> None:
    """Without an address a cluster of this machine is started, and ended with the evaluation.

    Its processes import nothing that lies in the driver's current folder, and nobody else can
    read the token that newer versions of Ray make.
    """
    pytest.importorskip("ray")
    home = tmp_path / "home"
    home.mkdir()
    process = spawn_bench(
        *arguments(small, "pixels", tmp_path / "ray", "--executor", "ray", "--jobs", 1),
        folder=trap,
        HOME=str(home),
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (home / ".ray").stat().st_mode & 0o077 == 0
    assert bench(*arguments(small, "pixels", tmp_path / "here", "--jobs", 1)).code == 0
    here, there = (tmp_path / name / "pixels" / "records.jsonl" for name in ("here", "ray"))
    assert results(here) == results(there)
    threads = {r.environment["threads"] for r in read_records(there) if r.status == "ok"}
    assert threads == {1}
