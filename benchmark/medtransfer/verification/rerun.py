"""Run cells again: the only check that needs the encoder."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.cost.machine import device_name, versions
from medtransfer.data.split import TaskData
from medtransfer.encoders.encoder import resolve_device
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.evaluation.runner import Runner
from medtransfer.specs.protocol import PROBES, Protocol
from medtransfer.specs.record import Record
from medtransfer.specs.verification import RerunCell, Verification, hash_files
from medtransfer.verification.entries import Entry

E = TypeVar("E", bound=Entry)

_TRAINED = ("decoder", "finetune")  # segmentation adaptations with learning rates
# Relative tolerance of the log loss if another L2 is selected. Of 72 cells of three shipped
# networks, fp32 instead of bf16 features change the L2 of one, whose loss is .0008 larger.
_CLOSE = 0.02
_COUNTED = ("adaptation_flops", "inference_flops_per_image", "parameters", "trainable_parameters")


def choose_cells(entries: Sequence[E], count: int) -> list[E]:
    """Choose cells at random, anew each time, so that nobody can prepare for the choice."""
    system = random.SystemRandom()
    return system.sample(list(entries), min(count, len(entries)))


class Rerun:
    """Runs cells of a submission again, in this environment.

    Attributes:
        cells: Results so far.
    """

    def __init__(
        self, located: EncoderSource, folder: Path, *, data: Mapping[str, TaskData], device: str
    ) -> None:
        """Keep the encoder, which is built when the first cell of a protocol is run."""
        self._folder = folder
        self._located = located
        self._data = data
        self._device = resolve_device(device)
        self._runners: dict[str, Runner] = {}
        self.cells: list[RerunCell] = []

    def run(
        self, entry: Entry, protocol: Protocol, first: Mapping[str, Any] | None
    ) -> Iterator[str]:
        """Run a cell again and compare.

        Args:
            entry: The record.
            protocol: The protocol.
            first: Hyperparameters that draw 0 selected, of which later draws reuse some.
        """
        runner = self._runner(protocol)
        record = entry.record
        yield from entry.expect(
            "environment.weights",
            record.environment.get("weights"),
            runner.encoder.weights_sha256,
            source="the encoder built here has",
        )
        again = alike = runner.run(record.cell, first).record
        if again.status == "ok" and _choice(again) != _choice(record):
            # On few held-out items, rounding can decide between two choices whose scores differ
            # much. So run the recorded choice too.
            narrow = replace(runner, protocol=_narrow(protocol, record))
            alike = narrow.run(record.cell, first).record
            yield from _compare_choices(entry, again, alike)
        yield from compare(entry, again, alike)
        primary = record.task.metric
        self.cells += [
            RerunCell(
                cell=str(record.cell),
                split=split,
                recorded=values[primary],
                again=alike.metrics[split][primary],
            )
            for split, values in record.metrics.items()
            if split in alike.metrics
        ]

    def write(self) -> None:
        """Write the verification, after all cells passed."""
        installed = versions()
        Verification(
            files=hash_files(self._folder),
            cells=self.cells,
            medtransfer=installed["medtransfer"],
            commit=installed["commit"],
            device=device_name(self._device),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        ).write(self._folder)

    def _runner(self, protocol: Protocol) -> Runner:
        if protocol.name not in self._runners:
            keep_freed_memory()
            encoder = build_encoder(self._located, max_size=protocol.max_size, device=self._device)
            self._runners[protocol.name] = Runner(encoder, self._data, protocol)
        return self._runners[protocol.name]


def _compare_choices(entry: Entry, again: Record, alike: Record) -> Iterator[str]:
    """Check that the recorded L2 is plausible, and not selected on a test split.

    Learning rates cannot be checked: one that is tried alone has no score.
    """
    least, recorded = (run.selected.get("validation_log_loss") for run in (again, alike))
    if entry.record.adaptation != "linear" or not (least and recorded):
        return
    if recorded > least * (1 + _CLOSE):
        yield entry.fault(
            "selected.l2",
            f"{alike.selected['l2']:g}, with log loss {recorded:.4g} on held-out training data; "
            f"the run again selects {again.selected['l2']:g}, with {least:.4g}",
        )


def _choice(record: Record) -> tuple[Any, Any]:
    return record.selected.get("l2"), record.selected.get("lr")


def _narrow(protocol: Protocol, record: Record) -> Protocol:
    """Restrict a protocol to the hyperparameters that a record selected."""
    l2, lr = _choice(record)
    rates = {"learning_rates": [lr], "learning_rates_random": []}
    changes: dict[str, Any] = {}
    if protocol.linear is not None:
        changes["linear"] = protocol.linear.model_copy(update={"l2": [l2]})
    if protocol.finetune is not None:
        changes["finetune"] = protocol.finetune.model_copy(update=rates)
    if protocol.lora is not None:
        changes["lora"] = protocol.lora.model_copy(update={"learning_rates": [lr]})
    if protocol.segmentation is not None:
        masks = protocol.segmentation
        trained = {name: getattr(masks, name).model_copy(update=rates) for name in _TRAINED}
        changes["segmentation"] = masks.model_copy(update=trained)
    return protocol.model_copy(update=changes)


def compare(entry: Entry, again: Record, alike: Record) -> Iterator[str]:
    """Compare a record with that of the same cell when it was run again.

    Counts must be equal, and the primary metric of a probe within ``_tolerate``, that of a
    trained network within ``_widen``.

    Args:
        entry: The record.
        again: The cell run again.
        alike: The same with the hyperparameters that the record selected, for the metrics.
    """
    record = entry.record
    source = "the run again gives"
    yield from entry.expect("status", record.status, again.status, source=source)
    for run in dict.fromkeys(run.error for run in (again, alike) if run.status == "failed"):
        yield entry.fault("error", f"the run again failed: {run}")
    if again.status != "ok" or record.cost is None or again.cost is None:
        return
    yield from entry.expect("counts", record.counts, again.counts, source=source)
    for name in _COUNTED:
        yield from entry.expect(
            f"cost.{name}", getattr(record.cost, name), getattr(again.cost, name), source=source
        )
    primary = record.task.metric
    same = record.environment.get("precision") == again.environment["precision"]
    for split, values in alike.metrics.items():
        recorded, value = record.metrics[split][primary], values[primary]
        field = f"metrics.{split}.{primary}"
        if recorded is None or value is None:
            yield from entry.expect(field, recorded, value, source=source)
            continue
        if record.adaptation in PROBES:
            within = _tolerate(values["n"] or 1, same=same)
            low, high = recorded - within, recorded + within
        else:
            low, high = _widen(recorded, record.intervals.get(split, {}).get(primary))
        if not low <= value <= high:
            yield entry.fault(
                field, f"{recorded:.4g}; {source} {value:.4g}, beyond {low:.4g} to {high:.4g}"
            )


def _tolerate(items: float, *, same: bool) -> float:
    """Tolerance of a probe's metric between machines that compute the features.

    Three networks of the shipped submissions on six tasks of 400 test items, 504 comparisons
    each: run again in the same precision the AUROC moved by .008 at most, and by .029 with
    features in fp32 instead of bf16. Rounding is noise, and so falls with the root of the items.

    Args:
        items: Of the test split.
        same: Whether both have the same precision.
    """
    return (0.01 if same else 0.03) * max(1.0, math.sqrt(400 / items))


def _widen(value: float, interval: tuple[float, float] | None) -> tuple[float, float]:
    """Range of the metric of a retrained network: the interval, widened on either side.

    The interval says how far other test items would move the score; half of its width, and .03 at
    least, is added on either side for another training. A corrupted split has no interval of its
    own and gets .05 on either side. Nineteen cells of two networks on phantoms, trained again with
    other code for their convolutions and the same learning rate, moved by .026 at most where the
    interval was .058 wide, and a Dice of another scanner by .029 where it was .026 wide.
    """
    low, high = interval or (value - 0.05, value + 0.05)
    more = max(0.03, (high - low) / 2)
    return low - more, high + more
