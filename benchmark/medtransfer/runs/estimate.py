"""What an evaluation will cost, before it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from medtransfer.cost.profile import profile_encoder
from medtransfer.encoders.encoder import Encoder
from medtransfer.runs.local import build_runner, fit_plan
from medtransfer.runs.plan import infeasible
from medtransfer.runs.preparation import Prepared
from medtransfer.specs.protocol import PROBES
from medtransfer.specs.record import Cell

__all__ = ["Estimate", "estimate"]

_TRIAL = 64  # images
_CELL_SECONDS = 0.5  # reading, metrics, bootstrap and ledger


@dataclass(frozen=True)
class Estimate:
    """The plan of an evaluation.

    Attributes:
        flops: Adaptation FLOPs of each pending cell; ``None`` where it does not apply.
        total: Number of all cells, finished ones included.
        seconds: Rough time on this machine.
        notes: What the user should know.
    """

    flops: dict[Cell, int | None]
    total: int
    seconds: float
    notes: tuple[str, ...]


def estimate(prepared: Prepared) -> Estimate:
    """Count the FLOPs of the pending cells; time a forward pass and a matrix product.

    The frozen features of the test splits are computed once; a fine-tuned network predicts its
    task's test splits anew.
    """
    runner = build_runner(prepared)
    known = len(prepared.notes)
    prepared = fit_plan(prepared, runner)
    pending = prepared.pending
    forward = profile_encoder(runner.encoder).forward
    passes, head = 0.0, 0
    for cell in pending:
        profile = runner.profile(cell)
        # The count is linear in the cost of an image. With 1000 for a forward pass it is a
        # thousand times the number of passes, also for an encoder without products to count;
        # with 0 it is the probe's own share.
        ratio = profile.training / profile.forward if forward else 1.0
        unit = replace(profile, forward=1000, training=round(1000 * ratio))
        own = runner.flops(cell, profile=replace(profile, forward=0, training=0))
        own_passes = (runner.flops(cell, profile=unit) - own) / 1000
        if cell.adaptation not in PROBES:
            own_passes += sum(map(len, runner.data[cell.task].tests.values()))
        # A decoder's products take the time of as many of the encoder's.
        passes += own_passes * (profile.forward / forward if forward else 1.0)
        head += own
    passes += sum(len(split) for data in runner.data.values() for split in data.tests.values())
    per_image, per_flop = _time_image(runner.encoder), _time_flop(runner.encoder.device)
    seconds = passes * per_image + head * per_flop
    return Estimate(
        flops={
            cell: None if infeasible(cell, runner.data, runner.protocol) else runner.flops(cell)
            for cell in pending
        },
        total=len(prepared.cells),
        seconds=seconds / prepared.request.jobs + len(pending) * _CELL_SECONDS,
        notes=(*prepared.notes[known:], *runner.encoder.notes),
    )


@torch.inference_mode()
def _time_image(encoder: Encoder) -> float:
    """Seconds that one image's embedding takes."""
    images = torch.zeros((_TRIAL, encoder.size, encoder.size, 3), dtype=torch.uint8)
    encoder(images)
    clock = time.perf_counter()
    encoder(images).cpu()
    return (time.perf_counter() - clock) / _TRIAL


def _time_flop(device: torch.device) -> float:
    """Seconds that one FLOP of the probes' thin float64 products takes."""
    wide, thin = (torch.ones((512, n), dtype=torch.float64, device=device) for n in (512, 16))
    (wide @ thin).cpu()
    clock = time.perf_counter()
    for _ in range(20):
        product = wide @ thin
    product.cpu()
    return (time.perf_counter() - clock) / (20 * 2 * 512 * 512 * 16)
