"""An unchanged registry, full precision, and the weights of a small network."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from torch import Tensor

from medtransfer.encoders import encoder as encoder_module
from medtransfer.encoders import registry
from tests.helpers.encoders import small_weights


@pytest.fixture(autouse=True)
def unchanged_registry() -> Iterator[None]:
    """What a test registers or imports is gone after it."""
    # Called for the shipped encoders: they are registered once, and must be kept after the test.
    before, modules = dict(registry.registered()), set(sys.modules)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("_encoder_"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every machine, whether or not it multiplies bf16."""
    monkeypatch.setattr(encoder_module, "supports_bf16", lambda device: False)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The weights of a small network, with its classifier."""
    return small_weights()
