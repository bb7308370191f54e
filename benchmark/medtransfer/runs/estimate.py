"""What an evaluation will cost, before it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from medtransfer.runs.local import build_runner
from medtransfer.runs.preparation import Prepared
from medtransfer.specs.record import Cell

__all__ = ["Estimate", "estimate"]

_TRIAL = 64  # images
_CELL_SECONDS = 0.5  # reading, metrics, bootstrap and ledger


@dataclass(frozen=True)
class Estimate:
    """The plan of an evaluation.

    Attributes:
        flops: Adaptation FLOPs of each cell that would run; zero where it does not apply.
        total: Number of all cells, finished ones included.
        seconds: Rough time on this machine.
        notes: What the user should know.
    """

    flops: dict[Cell, int]
    total: int
    seconds: float
    notes: tuple[str, ...]


def estimate(prepared: Prepared) -> Estimate:
    """Count the FLOPs of the pending cells and time a forward pass to turn them into seconds.

    The frozen features of the test splits are computed once and counted with the first task.
    """
    runner = build_runner(prepared)
    flops = {cell: runner.flops(cell) for cell in prepared.pending}
    tests = sum(len(split) for data in runner.data.values() for split in data.tests.values())
    encoder, forward = runner.encoder, runner.profile.forward
    side = encoder.size
    images = torch.zeros((_TRIAL, side, side, 3), dtype=torch.uint8)
    with torch.inference_mode():
        encoder(images)
        clock = time.perf_counter()
        encoder(images)
        per_image = (time.perf_counter() - clock) / _TRIAL
    finetuned = [cell for cell in flops if cell.adaptation == "finetune" and flops[cell]]
    passes = tests * (1 + len(finetuned) / max(1, len(runner.data)))
    # An encoder without products to count is timed by its images alone.
    work = sum(flops.values()) / forward if forward else 0.0
    return Estimate(
        flops=flops,
        total=len(prepared.cells),
        seconds=(work + passes) * per_image / prepared.request.jobs + len(flops) * _CELL_SECONDS,
        notes=runner.encoder.notes,
    )
