"""Run one cell: adapt, predict, measure, and make its record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.adaptation import ADAPTATIONS, Job, Outcome
from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.core.errors import InputError, describe
from medtransfer.cost.energy import Energy, measure_energy
from medtransfer.cost.machine import device_name, peak_memory, reset_peak_memory, versions
from medtransfer.cost.profile import Profile
from medtransfer.data.split import TaskData
from medtransfer.encoders.encoder import Encoder
from medtransfer.evaluation.measures import draw_weights, evaluate_split
from medtransfer.metrics import interval
from medtransfer.specs.protocol import PROBES, Protocol
from medtransfer.specs.record import Cell, Cost, EncoderRef, ProtocolRef, Record, TaskRef
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import Kind

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Finished:
    """Record of a cell with its arrays, before they are written.

    Attributes:
        record: The record, without references to arrays.
        replicates: Bootstrap replicates (B,) of the primary metric per test split; of graded
            corruptions, of their mean.
        predictions: Probabilities (N, C) or class ids (N, H, W) per test split, of draw 0 only;
            not of corruptions, which would take twenty times the space.
        traceback: Of the error of a cell that failed; empty where there is none.
    """

    record: Record
    replicates: Arrays = field(default_factory=dict)
    predictions: Arrays = field(default_factory=dict)
    traceback: str = ""


@dataclass(frozen=True)
class Runner:
    """Runs cells of one encoder.

    Attributes:
        encoder: On its device.
        data: The tasks by name.
        protocol: The protocol.
    """

    encoder: Encoder
    data: Mapping[str, TaskData]
    protocol: Protocol
    _profiles: dict[tuple[str, str, int], Profile] = field(default_factory=dict, repr=False)

    def profile(self, cell: Cell) -> Profile:
        """Count the cost of one image in a cell; cells of equal cost share the count."""
        job = self.job(cell)
        key = (cell.adaptation, job.data.card.kind, job.classes)
        if key not in self._profiles:
            self._profiles[key] = ADAPTATIONS[cell.adaptation].profile(job)
        return self._profiles[key]

    def job(self, cell: Cell, previous: Mapping[str, Any] | None = None) -> Job:
        """Collect everything that the cell's adaptation needs."""
        return Job(
            encoder=self.encoder,
            data=self.data[cell.task],
            protocol=self.protocol,
            budget=cell.budget,
            draw=cell.draw,
            previous=dict(previous or {}),
            adaptation=cell.adaptation,
        )

    def find_limits(self, cells: Iterable[Cell]) -> dict[tuple[Kind, str], str]:
        """List unsupported adaptations, such as segmentation without feature maps.

        Args:
            cells: Those that were asked for.

        Returns:
            The reason, by kind of task and adaptation.
        """
        kinds = {name: data.card.kind for name, data in self.data.items()}
        limits: dict[tuple[Kind, str], str] = {}
        for kind, adaptation in dict.fromkeys((kinds[c.task], c.adaptation) for c in cells):
            if adaptation in PROBES:
                continue
            maps = kind == "segmentation"
            try:
                prepare_encoder(self.encoder, adaptation, self.protocol, maps=maps)
            except InputError as error:
                limits[kind, adaptation] = str(error)
        return limits

    def flops(self, cell: Cell, *, profile: Profile | None = None) -> int:
        """Adaptation FLOPs of a cell, known before it runs."""
        # A later draw reuses the learning rate of draw 0; its value does not change the cost.
        job = self.job(cell, {"lr": 0.0} if cell.reuses_rate else None)
        return ADAPTATIONS[cell.adaptation].flops(job, profile or self.profile(cell))

    def run(self, cell: Cell, previous: Mapping[str, Any] | None = None) -> Finished:
        """Run a cell. A failure becomes a record too, so that the other cells still run.

        Args:
            cell: The cell.
            previous: What draw 0 selected, for the draws that reuse it.
        """
        started, clock = _now(), time.perf_counter()
        reset_peak_memory(self.encoder.device)
        try:
            job = self.job(cell, previous)
            adapter = ADAPTATIONS[cell.adaptation]
            with measure_energy(self.encoder.device) as energy:
                outcome = adapter.adapt(job)
            seconds = time.perf_counter() - clock
            cost = self._cost(
                job,
                outcome,
                flops=adapter.flops(job, self.profile(cell)),
                inference=adapter.inference_flops(job, self.profile(cell)),
                seconds=seconds,
                energy=energy,
            )
            environment = self._environment(job.data, outcome.micro_batch, energy)
            return self._measure(cell, job, outcome, cost, environment, started)
        except Exception as error:
            record = self._record(cell, started, status="failed", error=describe(error))
            return Finished(record, traceback=traceback.format_exc())

    def fail(self, cell: Cell, error: str) -> Finished:
        """Make the record of a cell whose process died."""
        return Finished(self._record(cell, _now(), status="failed", error=error))

    def leave_out(self, cell: Cell, reason: str) -> Finished:
        """Make the record of a cell that does not apply to its task."""
        return Finished(self._record(cell, _now(), status="not_applicable", error=reason))

    def _measure(
        self,
        cell: Cell,
        job: Job,
        outcome: Outcome,
        cost: Cost,
        environment: dict[str, Any],
        started: str,
    ) -> Finished:
        shared: dict[str, Any] = {
            "selected": outcome.selected,
            "counts": job.counts,
            "cost": cost,
            "environment": environment,
        }
        if outcome.diverged:
            error = "training went to NaN at every learning rate"
            record = self._record(cell, started, status="diverged", error=error, **shared)
            return Finished(record)
        metrics: dict[str, Any] = {}
        intervals: dict[str, Any] = {}
        weights: dict[str, NDArray[np.float64]] = {}
        replicates: dict[str, list[NDArray[np.float64]]] = {}
        for name, split in job.data.tests.items():
            family = SplitName.parse(name).family
            if family not in weights:
                weights[family] = draw_weights(cell.task, name, split, self.protocol.bootstrap)
            # Measure the predictions as stored, so that the numbers can be verified.
            predictions = outcome.predictions[name]
            result = evaluate_split(job.data.card, split, predictions, weights[family])
            metrics[name] = result.flatten(job.data.card.classes)
            if family == name:
                intervals[name] = result.intervals
            replicates.setdefault(family, []).append(result.replicates[job.data.card.metric])
        means = {name: np.mean(arrays, axis=0) for name, arrays in replicates.items()}
        primary = job.data.card.metric
        intervals |= {
            name: {primary: interval(mean)} for name, mean in means.items() if name not in metrics
        }
        record = self._record(
            cell, started, status="ok", metrics=metrics, intervals=intervals, **shared
        )
        kept = {
            name: array
            for name, array in outcome.predictions.items()
            if cell.draw == 0 and not SplitName.parse(name).corrupted
        }
        return Finished(
            record, {name: mean.astype(np.float32) for name, mean in means.items()}, kept
        )

    def _cost(
        self,
        job: Job,
        outcome: Outcome,
        *,
        flops: int,
        inference: int,
        seconds: float,
        energy: Energy,
    ) -> Cost:
        return Cost(
            adaptation_flops=flops,
            inference_flops_per_image=inference,
            parameters=outcome.parameters,
            trainable_parameters=outcome.trainable_parameters,
            images_seen=outcome.images_seen,
            seconds=round(seconds, 3),
            peak_memory_bytes=peak_memory(self.encoder.device),
            energy_joules=energy.joules,
            device=device_name(self.encoder.device),
        )

    def _environment(self, data: TaskData, micro_batch: int, energy: Energy) -> dict[str, Any]:
        return {
            **versions(),
            "weights": self.encoder.weights_sha256,
            "precision": self.encoder.precision,
            "input_size": self.encoder.size,
            "native_size": list(data.splits["train"].images.shape[1:3]),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            **({"images_at_a_time": micro_batch} if micro_batch else {}),
            **({"energy": energy.source} if energy.source else {}),
        }

    def _record(self, cell: Cell, started: str, **fields: Any) -> Record:
        card = self.data[cell.task].card
        return Record(
            encoder=EncoderRef(name=self.encoder.card.name, sha256=self.encoder.identity),
            task=TaskRef(
                name=card.name,
                fingerprint=self.data[cell.task].fingerprint,
                domain=card.domain,
                kind=card.kind,
                metric=card.metric,
                chance=card.chance,
            ),
            protocol=ProtocolRef(
                name=self.protocol.name,
                fingerprint=self.protocol.fingerprint(card.kind, cell.adaptation),
            ),
            budget=cell.budget,
            adaptation=cell.adaptation,
            draw=cell.draw,
            started=started,
            finished=_now(),
            **fields,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
