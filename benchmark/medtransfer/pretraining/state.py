"""State of a run that resumes after a stop, in one file written atomically."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from medtransfer.core.errors import InputError, RunError, reason
from medtransfer.core.files import replace


@dataclass
class Measured:
    """Cost of the steps so far; all of it adds up over stops but the peak.

    Attributes:
        flops: Of all steps.
        full_flops: Of as many steps on all parameters.
        seconds: Wall time of the steps.
        device_seconds: The same of all devices together.
        peak_memory_bytes: The largest of one process.
        energy_joules: ``None`` where the device's counter could not be read throughout.
    """

    flops: int = 0
    full_flops: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    peak_memory_bytes: int = 0
    energy_joules: float | None = 0.0


@dataclass
class State:
    """A run between two steps. All random numbers follow from the step.

    Attributes:
        fingerprint: SHA-256 of all that decides the weights.
        step: Steps that are done.
        objective: Weights of the encoder and its head.
        optimiser: Its moments; empty between two phases.
        losses: Mean loss of every step, over all devices.
        measured: What it took.
        passed: Which images went through a frozen beginning whose output is kept, bool (N,).
    """

    fingerprint: str
    step: int
    objective: dict[str, Any]
    optimiser: dict[str, Any]
    losses: list[float]
    measured: Measured = field(default_factory=Measured)
    passed: torch.Tensor | None = None


def write_state(path: Path, state: State) -> None:
    """Write a state in place of the last one.

    Raises:
        RunError: When that is not possible; the last one is as it was.
    """
    buffer = io.BytesIO()
    content = {one.name: getattr(state, one.name) for one in fields(state)}
    torch.save({**content, "measured": vars(state.measured)}, buffer)
    try:
        replace(path, buffer.getvalue())
    except OSError as error:
        then = "the last one is whole, and the same command goes on from it"
        if not path.exists():
            then = "the same command starts again"
        raise RunError(
            f"{path}: cannot be written: {reason(error)}; {then} when there is room"
        ) from None


def read_state(path: Path) -> State | None:
    """Read a state; ``None`` where there is none.

    Raises:
        InputError: When the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return State(**{**content, "measured": Measured(**content["measured"])})
    except Exception:  # whatever the unpickler makes of bytes that are no pickle
        raise InputError(
            f"{path}: damaged; --fresh starts again, or choose another --out"
        ) from None
