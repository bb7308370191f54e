"""What a worker is given: a small set-up, from which it builds the driver's runner."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medtransfer.core.errors import InputError
from medtransfer.evaluation.evaluate import run
from medtransfer.evaluation.executors.processes import ProcessExecutor
from medtransfer.evaluation.options import Request
from medtransfer.evaluation.request import Prepared, prepare
from medtransfer.evaluation.setup import build_runner, set_up_worker
from tests.conftest import Small
from tests.helpers.evaluation import write_encoder


def prepare_knn(small: Small, folder: Path) -> Prepared:
    """A checked request of the cells that take the least time, in two processes."""
    request = Request(
        str(write_encoder(folder)),
        adaptations=("knn",),
        task_folder=small.cards,
        protocol="quick",
        data=small.data,
        out=folder / "out",
        jobs=2,
    )
    return prepare(request)


def test_workers_do_not_prepare_the_request_again(small: Small, tmp_path: Path) -> None:
    """They run although the folder of cards is gone since the driver has read it."""
    prepared = prepare_knn(small, tmp_path)
    shutil.rmtree(small.cards)
    records = run(prepared)
    assert {record.status for record in records} == {"ok"}
    assert [record.cell for record in records] == list(prepared.cells)


def test_a_set_up_is_small(small: Small, tmp_path: Path) -> None:
    """It holds cards and protocol, and neither images nor weights."""
    prepared = prepare_knn(small, tmp_path)
    setup = set_up_worker(prepared, build_runner(prepared), threads=1)
    content = pickle.dumps(setup)
    assert len(content) < 20_000
    assert pickle.loads(content) == setup


def test_a_worker_that_cannot_build_the_encoder_says_why(small: Small, tmp_path: Path) -> None:
    """Its error is the driver's, in one line: an encoder that has changed since is refused."""
    prepared = prepare_knn(small, tmp_path)
    setup = set_up_worker(prepared, build_runner(prepared), threads=1)
    executor = ProcessExecutor(replace(setup, weights="0"), 1)
    try:
        executor.submit(prepared.cells[0], None)
        with pytest.raises(InputError, match="another tiny than the driver's"):
            executor.wait()
    finally:
        executor.close()
