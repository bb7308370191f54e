"""Small data to adapt to, and a processor that counts its energy."""

from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card
from tests.conftest import Small
from tests.helpers.cost import Processor


@pytest.fixture
def data(small: Small) -> TaskData:
    """60 training images of 3 classes and 24 for validation."""
    return open_task(load_card(small.card), folder=small.data)


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """One package that has counted 600 mJ and wraps at 1 J."""
    processor = Processor(tmp_path / "powercap", tmp_path / "stat")
    processor.install(monkeypatch)
    processor.count("intel-rapl:0", "package-0", 600_000)
    return processor
