"""How many processes an evaluation uses, what they share, and what they leave to glibc."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.core.errors import InputError
from medtransfer.evaluation.executors import jobs as choice
from medtransfer.evaluation.executors.jobs import available_cores, choose_jobs
from medtransfer.evaluation.ledger import _extend
from medtransfer.specs.record import read_records
from tests.conftest import Bench, Small, spawn_bench
from tests.helpers.evaluation import arguments, results, write_encoder
from tests.helpers.replicates import load_arrays


@pytest.mark.parametrize(
    ("cores", "gibibytes", "cells", "gpu", "jobs"),
    [
        (2, 24, 100, False, 2),
        (2, 24, 1, False, 1),
        (16, 24, 100, False, 3),
        (64, 512, 100, False, 8),
        (2, 4, 100, False, 1),
        (16, 512, 100, True, 1),
    ],
)
def test_processes_fit_the_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, gibibytes: int, cells: int, gpu: bool, jobs: int
) -> None:
    """As many as cores, cells and memory allow, eight at most; a GPU is filled by one."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores))
    monkeypatch.setattr(choice, "_available_memory", lambda: gibibytes * 2**30)
    assert available_cores() == cores
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_jobs(None, device="auto", cells=cells) == jobs
    assert choose_jobs(5, device="auto", cells=cells) == 5


@pytest.mark.parametrize("value", ["", "many", "0", "-1"])
def test_a_thread_count_that_is_none_is_not_heeded(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Then the system says how many cores there are."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    expected = available_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert available_cores() == expected >= 1


def test_the_memory_of_this_machine_is_known() -> None:
    """More than this process holds, less than a petabyte."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert held / 4 < choice._available_memory() < 2**50


def test_processes_by_default(small: Small, tmp_path: Path, trap: Path, bench: Bench) -> None:
    """Without --jobs a machine of two cores runs two cells at a time, one thread each.

    The longest cell is begun first, the results are those of one process of one thread, and no
    process imports what lies in the current folder.
    """
    if choice._available_memory() < 2 * choice.CELL_MEMORY:
        pytest.skip("too little memory for two processes")
    encoder = write_encoder(tmp_path)
    process = spawn_bench(
        *arguments(small, encoder, tmp_path / "default"), folder=trap, OMP_NUM_THREADS="2"
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert bench(*arguments(small, encoder, tmp_path / "one", "--jobs", 1)).code == 0
    folders = [tmp_path / name / "tiny" for name in ("default", "one")]
    assert results(folders[0] / "records.jsonl") == results(folders[1] / "records.jsonl")
    records = read_records(folders[0] / "records.jsonl")
    assert {r.environment["threads"] for r in records if r.status == "ok"} == {1}
    tuned = [record.started for record in records if record.adaptation == "finetune"]
    rest = [record.started for record in records if record.adaptation != "finetune"]
    assert tuned and rest and max(tuned) <= min(rest)
    arrays = [load_arrays(folder / "replicates.npz") for folder in folders]
    assert set(arrays[0]) == set(arrays[1])
    for key in arrays[0]:
        np.testing.assert_array_equal(arrays[0][key], arrays[1][key])


def test_a_script_without_the_guard(small: Small, tmp_path: Path) -> None:
    """Processes that cannot start are one error that says what to write, not failed cells."""
    script = tmp_path / "script.py"
    script.write_text(
        "from medtransfer import evaluate\n"
        f"evaluate({str(write_encoder(tmp_path))!r}, task_folder={str(small.cards)!r}, "
        f"data={str(small.data)!r}, protocol='quick', out={str(tmp_path / 'out')!r}, jobs=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert 'needs the guard if __name__ == "__main__":' in last
    assert not (tmp_path / "out" / "tiny" / "records.jsonl").exists()


def test_a_server_that_dies(small: Small, tmp_path: Path) -> None:
    """A server of processes that has ended is one line, and nothing is written."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'forkserver' in ' '.join(sys.orig_argv): os._exit(3)\n"
    )
    process = spawn_bench(
        *arguments(small, "pixels", tmp_path / "out", "--jobs", 2), PYTHONPATH=str(tmp_path)
    )
    _, errors = process.communicate()
    assert process.returncode == 1 and errors.count("\n") == 1, errors
    assert errors.startswith("error: --jobs: no process could be started: ")
    assert not (tmp_path / "out").exists()


def test_freed_memory_is_kept() -> None:
    """After the call, blocks of 16 MiB that are freed and taken again cost no page faults."""
    code = """
import resource, torch
from medtransfer.acceleration.malloc import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**22)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc's settings")
    runs = [
        subprocess.run(
            [sys.executable, "-c", code.format(call=call)],
            capture_output=True,
            text=True,
            check=True,
            env={"MALLOC_TOP_PAD_": "0", "PATH": ""},
        )
        for call in ("keep_freed_memory()", "")
    ]
    kept, given_back = (int(run.stdout) for run in runs)
    assert kept < 100
    assert given_back > kept
    keep_freed_memory()  # does no harm twice


def test_a_peak_is_that_of_its_own_cell() -> None:
    """What an earlier cell freed, in blocks that glibc keeps, is not the next cell's."""
    code = """
import torch
from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.cost.machine import peak_memory, reset_peak_memory
keep_freed_memory()
cpu = torch.device("cpu")
reset_peak_memory(cpu)
idle = peak_memory(cpu)
blocks = [torch.ones(2**21) for _ in range(40)]
reset_peak_memory(cpu)
held = peak_memory(cpu)
del blocks
reset_peak_memory(cpu)
print(held - idle, peak_memory(cpu) - idle)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held, freed = map(int, done.stdout.split())
    assert held > 300 * 2**20
    assert freed < 50 * 2**20


def test_an_archive_is_extended(tmp_path: Path) -> None:
    """Members stay as they are, new ones are added, one of the same name takes its place."""
    path = tmp_path / "arrays.npz"
    rng = np.random.default_rng(0)
    arrays = {f"task/{i}/in_domain": rng.normal(size=5) for i in range(3)}
    for name, array in arrays.items():
        _extend(path, {name: array})
    arrays["task/1/in_domain"] = np.arange(4, dtype=np.uint8)
    _extend(path, {"task/1/in_domain": arrays["task/1/in_domain"], "task/3/x": np.zeros((2, 2))})
    arrays["task/3/x"] = np.zeros((2, 2))
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive.files) == sorted(arrays)
        for name, array in arrays.items():
            assert archive[name].dtype == array.dtype
            np.testing.assert_array_equal(archive[name], array)
    assert [file.name for file in tmp_path.iterdir()] == ["arrays.npz"]


def test_a_damaged_archive_is_not_extended(tmp_path: Path) -> None:
    """It stays as it was, and the message says what to do."""
    path = tmp_path / "arrays.npz"
    np.savez(path, before=np.zeros(3))
    whole = path.read_bytes()
    path.write_bytes(content := whole.replace(b"PK\x01\x02", b"PK\x00\x00"))
    with pytest.raises(InputError, match=r"arrays\.npz: damaged; choose another --out"):
        _extend(path, {"a": np.zeros(2)})
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["arrays.npz"]


def test_one_pass_over_the_parameters_changes_nothing() -> None:
    """Fused AdamW gives the plain one's weights, where convolutions lie channels-last in memory.

    It reads raw memory: a gradient laid out otherwise than its parameter would be applied to the
    wrong weights, without a word. Autograd lays them out alike, which is checked here too.
    """
    networks = []
    for fused in (True, False):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1, groups=2)
        ).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=fused)
        for seed in range(4):
            torch.manual_seed(seed)
            images = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = network(images).float().square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in network.parameters():
                assert parameter.grad is not None
                assert parameter.grad.stride() == parameter.stride()
            optimiser.step()
        networks.append(network)
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
