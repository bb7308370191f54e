"""Run one cell: adapt, predict, measure, and write down what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.adaptation import ADAPTATIONS, Job, Outcome
from medtransfer.core.errors import describe
from medtransfer.cost.energy import Energy, measure_energy
from medtransfer.cost.machine import device_name, peak_memory, reset_peak_memory, versions
from medtransfer.cost.profile import Profile
from medtransfer.data.split import Split, TaskData
from medtransfer.encoders.encoder import Encoder
from medtransfer.evaluation.cells import infeasible
from medtransfer.metrics import Evaluation, evaluate, interval, item_weights
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell, Cost, EncoderRef, ProtocolRef, Record, TaskRef
from medtransfer.specs.task import split_family

__all__ = ["Finished", "Runner"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Finished:
    """A record with its arrays, before they are written.

    Attributes:
        record: The record, without references to arrays.
        replicates: Bootstrap replicates (B,) of the primary metric per test split; of graded
            corruptions, of their mean.
        predictions: Probabilities (N, C) or class ids (N, H, W) per test split, of draw 0 only;
            not of corruptions, which are twenty times as many.
    """

    record: Record
    replicates: Arrays = field(default_factory=dict)
    predictions: Arrays = field(default_factory=dict)


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
        """What one image costs in a cell; counted once for all cells that are alike."""
        job = self.job(cell)
        key = (cell.adaptation, job.data.card.kind, job.classes)
        if key not in self._profiles:
            self._profiles[key] = ADAPTATIONS[cell.adaptation].profile(job)
        return self._profiles[key]

    def job(self, cell: Cell, previous: Mapping[str, Any] | None = None) -> Job:
        """Everything that the cell's adaptation needs."""
        return Job(
            encoder=self.encoder,
            data=self.data[cell.task],
            protocol=self.protocol,
            budget=cell.budget,
            draw=cell.draw,
            previous=dict(previous or {}),
            adaptation=cell.adaptation,
        )

    def flops(self, cell: Cell, *, profile: Profile | None = None) -> int:
        """Adaptation FLOPs of a cell, known before it runs; zero where it does not apply."""
        if infeasible(cell, self.data, self.protocol) is not None:
            return 0
        # A later draw will reuse some learning rate of draw 0; which one costs the same.
        job = self.job(cell, {"lr": 0.0} if cell.draw else None)
        return ADAPTATIONS[cell.adaptation].flops(job, profile or self.profile(cell))

    def run(self, cell: Cell, previous: Mapping[str, Any] | None = None) -> Finished:
        """Run a cell. A failure becomes a record too, so that the run can go on.

        Args:
            cell: The cell.
            previous: What draw 0 selected, for the draws that reuse it.
        """
        started, clock = _now(), time.perf_counter()
        reason = infeasible(cell, self.data, self.protocol)
        if reason is not None:
            return Finished(self._record(cell, started, status="not_applicable", error=reason))
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
            return Finished(self._record(cell, started, status="failed", error=describe(error)))

    def fail(self, cell: Cell, error: str) -> Finished:
        """The record of a cell whose process is gone."""
        return Finished(self._record(cell, _now(), status="failed", error=error))

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
            family = split_family(name)
            # The corruptions of a split share their weights, so that their mean has replicates;
            # where patients are known, whole patients are drawn.
            if family not in weights:
                weights[family] = item_weights(
                    cell.task,
                    family,
                    len(split),
                    replicates=self.protocol.bootstrap,
                    groups=split.patients,
                )
            # From what is kept, so that the numbers can be verified from it.
            result = _evaluate(job, outcome.predictions[name], split, weights[family])
            foreground = job.data.card.classes[1:]
            metrics[name] = {
                **result.values,
                **{
                    f"{metric}/{label}": value
                    for metric, values in result.per_class.items()
                    for label, value in zip(foreground, values, strict=True)
                },
                "classes_scored": result.classes_scored,
                "n": result.n,
            }
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
        predictions = {
            name: array
            for name, array in outcome.predictions.items()
            if cell.draw == 0 and split_family(name) == name
        }
        return Finished(
            record, {name: mean.astype(np.float32) for name, mean in means.items()}, predictions
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


def _evaluate(
    job: Job, predictions: NDArray[Any], split: Split, weights: NDArray[np.float64]
) -> Evaluation:
    """Compare the predictions of a split, in the form in which they are kept, with the truth."""
    kind = job.data.card.kind
    if kind == "segmentation":
        assert split.masks is not None
        return evaluate(predictions, split.masks, weights, kind=kind, classes=job.classes)
    return evaluate(predictions.astype(np.float64), split.labels, weights, kind=kind)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
