"""Estimate what an evaluation will cost, before it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from medtransfer.acceleration.clipping import ClippingAdamW
from medtransfer.adaptation import Job
from medtransfer.adaptation.finetune import batch_size, build_learner
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.memory import halve_on_oom, out_of_memory, release_memory
from medtransfer.evaluation.executors.jobs import choose_jobs
from medtransfer.evaluation.request import Prepared
from medtransfer.evaluation.runner import Runner
from medtransfer.evaluation.setup import build_runner
from medtransfer.specs.protocol import PROBES
from medtransfer.specs.record import Cell

_CELL_SECONDS = 0.2  # reading, metrics, bootstrap and ledger


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
    """Count the FLOPs of the pending cells, and time what they consist of.

    Frozen features are computed once for each split of a task; a trained network predicts its
    task's test splits anew.
    """
    runner = build_runner(prepared)
    plan = prepared.plan(limits=runner.find_limits(prepared.cells))
    pending = prepared.find_pending(plan.cells)
    request = prepared.request
    jobs = choose_jobs(request.jobs, device=request.device, cells=len(pending))
    flops = {cell: None if cell in plan.not_applicable else runner.flops(cell) for cell in pending}
    running = [cell for cell in pending if flops[cell] is not None]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))  # the number that each process will have
    try:
        seconds = _time_cells(runner, running)
    finally:
        torch.set_num_threads(threads)
    return Estimate(
        flops=flops,
        total=len(plan.cells),
        seconds=seconds / jobs,
        notes=(*plan.notes, *runner.encoder.notes),
    )


def _time_cells(runner: Runner, cells: Sequence[Cell]) -> float:
    """Seconds that cells take one after the other."""
    per_flop = _time_flop(runner.encoder.device)
    times: dict[tuple[Any, ...], tuple[float, float]] = {}
    seconds = len(cells) * _CELL_SECONDS
    for cell in cells:
        # The count is linear in the cost of an image: a cost of one counts the images.
        none = replace(runner.profile(cell), forward=0, training=0)
        if cell.adaptation in PROBES:
            seconds += runner.flops(cell, profile=none) * per_flop
            continue
        job = runner.job(cell)
        key = (cell.adaptation, job.data.card.kind, job.classes, batch_size(job))
        if key not in times:
            times[key] = _time_learner(job)
        training, prediction = times[key]
        predicted = runner.flops(cell, profile=replace(none, forward=1))
        predicted += sum(map(len, job.data.tests.values()))
        seconds += runner.flops(cell, profile=replace(none, training=1)) * training
        seconds += predicted * prediction
    probed = {cell.task for cell in cells if cell.adaptation in PROBES}
    if probed:
        splits = [split for task in probed for split in runner.data[task].splits.values()]
        seconds += sum(map(len, splits)) * _time_image(runner.encoder)
    return seconds


def _time_learner(job: Job) -> tuple[float, float]:
    """Seconds that one image's training and prediction take, in batches of the cell's size."""
    micro_batch = batch_size(job)
    while True:
        try:
            return _time_steps(job, micro_batch)
        except Exception as error:
            if not out_of_memory(error) or micro_batch == 1:
                raise
        micro_batch //= 2
        release_memory()


def _time_steps(job: Job, micro_batch: int) -> tuple[float, float]:
    learner = build_learner(job)
    encoder = learner.encoder
    pixels, seen = (
        torch.rand((n, encoder.card.input.channels, encoder.size, encoder.size)).to(encoder.device)
        * 255
        for n in (micro_batch, encoder.batch)
    )
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimiser = ClippingAdamW([{"params": parameters}], clip=1.0)
    times = []
    for _ in range(2):  # the first warms up
        clock = time.perf_counter()
        learner.train()(pixels).float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        parameters[0].flatten()[0].item()  # waits for a GPU
        middle = time.perf_counter()
        with torch.inference_mode():
            halve_on_oom(learner.eval(), seen).float().mean().item()
        times.append((middle - clock, time.perf_counter() - middle))
    training, prediction = times[-1]
    return training / micro_batch, prediction / encoder.batch


@torch.inference_mode()
def _time_image(encoder: Encoder) -> float:
    """Seconds that one image's embedding takes."""
    images = torch.zeros((encoder.batch, encoder.size, encoder.size, 3), dtype=torch.uint8)
    halve_on_oom(encoder, images)
    clock = time.perf_counter()
    halve_on_oom(encoder, images).cpu()
    return (time.perf_counter() - clock) / encoder.batch


def _time_flop(device: torch.device) -> float:
    """Seconds that one FLOP of the probes' thin float64 products takes."""
    wide, thin = (torch.ones((512, n), dtype=torch.float64, device=device) for n in (512, 16))
    (wide @ thin).cpu()
    clock = time.perf_counter()
    for _ in range(20):
        product = wide @ thin
    product.cpu()
    return (time.perf_counter() - clock) / (20 * 2 * 512 * 512 * 16)
