"""Small data to adapt to, and full precision."""

from __future__ import annotations

import pytest

from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders import encoder as encoder_module
from medtransfer.specs.task import load_card
from tests.conftest import Small


@pytest.fixture
def data(small: Small) -> TaskData:
    """60 training images of 3 classes, 24 for validation, 36 for the test."""
    return open_task(load_card(small.card), folder=small.data)


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every machine, whether or not it multiplies bf16."""
    monkeypatch.setattr(encoder_module, "supports_bf16", lambda device: False)
