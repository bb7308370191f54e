"""Checkpoints, and encoders loaded from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

from medtransfer.core.errors import InputError
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.loading import load_encoder
from medtransfer.specs.encoder import Architecture, EncoderCard, Input

SMALL = "test_resnet"  # timm's smallest ResNet; not one of the registered encoders


def load(encoder: object, **options: Any) -> Encoder:
    return load_encoder(str(encoder), **{"max_size": 64, "device": "cpu", **options})


def refusal(encoder: object, **options: Any) -> str:
    """The message with which an encoder is refused: always one line."""
    with pytest.raises(InputError) as caught:
        load(encoder, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def images(count: int = 6, *, size: int = 40, colour: bool = True, seed: int = 0) -> Tensor:
    shape = (count, size, size, 3) if colour else (count, size, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def small_weights(*, seed: int = 0) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(SMALL).state_dict()


def first_weight(encoder: Encoder) -> Tensor:
    return next(iter(encoder.network.parameters())).detach()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_folder(folder: Path, state: dict[str, Tensor] | None, **card: Any) -> Path:
    folder.mkdir()
    if state is not None:
        torch.save(state, folder / "weights.pt")
        card.setdefault("weights", {"path": "weights.pt"})
    card.setdefault("architecture", {"timm": SMALL})
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    return folder


SCRIPT = """
from torch import nn
from medtransfer import EncoderCard, register
from medtransfer.encoders.registry import built_by
from medtransfer.specs.encoder import Input

def build():
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())

register(EncoderCard(name="mine", architecture=built_by(build), input=Input(size=32)), build)
"""


def write_script(folder: Path, text: str, *, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


class Network(nn.Module):
    """A network made of one function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        """Keep the function."""
        super().__init__()
        self.function = function
        self.calls = 0

    def forward(self, inputs: Tensor) -> Any:
        """Call the function and count the call."""
        self.calls += 1
        return self.function(inputs)


def wrap(function: Callable[[Tensor], Any], *, size: int = 32, **fields: Any) -> Encoder:
    """An unchecked encoder around a function of normalised images."""
    card = EncoderCard(
        name="mine",
        architecture=Architecture(python="tests:wrap"),
        input=Input(size=size, **fields),
    )
    return Encoder(card, Network(function), identity="mine", size=size).eval()


def pooled(inputs: Tensor) -> Tensor:
    return inputs.mean(dim=(2, 3))
