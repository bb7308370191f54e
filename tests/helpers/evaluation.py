"""Evaluations of small encoders: the encoders, the command line, the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medtransfer.specs.record import read_records
from tests.conftest import Small

TINY = """
import torch
from medtransfer import EncoderCard, register
from medtransfer.encoders.registry import built_by

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        )

    def forward(self, images):
        {forward}
        return self.layers(images)

def build():
    return Tiny()

register(EncoderCard(name="{name}", architecture=built_by(build), input={{"size": 16}}), build)
"""


def write_encoder(folder: Path, name: str = "tiny", forward: str = "") -> Path:
    """A user's own Python file with a small convolutional network."""
    path = folder / f"{name}.py"
    path.write_text(TINY.format(name=name, forward=forward))
    return path


def arguments(small: Small, encoder: object, out: Path, *more: object) -> list[object]:
    """The options of a quick evaluation on the small task."""
    return [
        *("evaluate", "--encoder", encoder, "--protocol", "quick", "--out", out),
        *("--tasks", small.cards, "--data", small.data, *more),
    ]


def results(ledger: Path) -> dict[Any, Any]:
    """What must not depend on how often a run was interrupted, by cell."""
    lines = [
        json.loads(line)
        for line in ledger.read_bytes().splitlines(keepends=True)
        if line[-1:] == b"\n"
    ]
    names = ("budget", "adaptation", "draw")
    cells = [(line["task"]["name"], *map(line.get, names)) for line in lines]
    assert len(set(cells)) == len(cells), "a cell was written twice"
    return {
        record.cell: (record.status, record.selected, record.metrics, record.intervals)
        for record in read_records(ledger)
    }
