"""Networks whose operations are counted, and a processor that counts its energy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from medtransfer.cost import energy as energy_module
from medtransfer.encoders.encoder import Encoder, check_encoder
from medtransfer.specs.encoder import RANDOM_WEIGHTS, Architecture, EncoderCard, Input

CPU = torch.device("cpu")


def build(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def make_encoder(network, *, size=16):
    card = EncoderCard(
        name="toy",
        architecture=Architecture(python="tests:toy"),
        input=Input(size=size, channels=1, mean=[0.5], std=[0.25]),
        pretraining=RANDOM_WEIGHTS,
    )
    encoder = Encoder(card, network, identity="cost", size=size).eval()
    check_encoder(encoder)
    return encoder


class Filters(nn.Module):
    """Convolution with a buffer."""

    def __init__(self) -> None:
        """Draw the filters."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", torch.randn((5, 1, 3, 3), generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Average the rectified responses."""
        return nn.functional.conv2d(images, self.filters).relu().mean(dim=(2, 3))


@dataclass
class Processor:
    """A machine's files as Linux lays them out, with the counters in microjoules.

    Attributes:
        powercap: In place of ``/sys/class/powercap``.
        stat: In place of ``/proc/stat``.
        most: Where every counter wraps.
    """

    powercap: Path
    stat: Path
    most: int = 1_000_000

    def install(self, monkeypatch: pytest.MonkeyPatch, *, watch: float = 3600) -> None:
        """Have it measured; this process is all that ever works on it."""
        monkeypatch.setattr(energy_module, "_POWERCAP", self.powercap)
        monkeypatch.setattr(energy_module, "_STAT", self.stat)
        monkeypatch.setattr(energy_module, "_WATCH_SECONDS", watch)
        self.work(0)

    def count(self, domain: str, name: str, microjoules: int) -> None:
        """Set the counter of a domain, which is made where it is not there."""
        folder = self.powercap / domain
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{self.most}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")

    def work(self, seconds: float) -> None:
        """Set how long all cores together have worked since they were started."""
        ticks = round(seconds * os.sysconf("SC_CLK_TCK"))
        self.stat.write_text(f"cpu  {ticks} 0 0 900 0 0 0 0 0 0\ncpu0 {ticks} 0 0 900\n")


def _remove_all(processor: Processor) -> None:
    processor.powercap.rename(processor.powercap.with_name("none"))
