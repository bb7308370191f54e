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
    """Cost of the steps so far, summed over interruptions; the peak is a maximum.

    Attributes:
        flops: FLOPs of all steps.
        full_flops: FLOPs of as many steps on all parameters.
        seconds: Wall time of the steps.
        device_seconds: Wall time summed over devices.
        peak_memory_bytes: Largest peak of one process.
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
    """State of a run between two steps. The step determines all random numbers.

    Attributes:
        fingerprint: SHA-256 of all that decides the weights.
        step: Number of finished steps.
        objective: Weights of the encoder and its head.
        optimiser: State of the optimiser; empty between two phases.
        losses: Mean loss of every step, over all devices.
        measured: Cost so far.
        passed: Images that passed the frozen first part with kept output, bool (N,).
    """

    fingerprint: str
    step: int
    objective: dict[str, Any]
    optimiser: dict[str, Any]
    losses: list[float]
    measured: Measured = field(default_factory=Measured)
    passed: torch.Tensor | None = None


def write_state(path: Path, state: State) -> None:
    """Write a state atomically over the last one.

    Raises:
        RunError: When it cannot be written; the last state is unchanged.
    """
    buffer = io.BytesIO()
    content = {field.name: getattr(state, field.name) for field in fields(state)}
    torch.save({**content, "measured": vars(state.measured)}, buffer)
    try:
        replace(path, buffer.getvalue())
    except OSError as error:
        then = "the last state is kept: free some space and run the same command again to resume"
        if not path.exists():
            then = "free some space and run the same command again"
        raise RunError(f"{path}: cannot be written: {reason(error)}; {then}") from None


def read_state(path: Path) -> State | None:
    """Read a state; ``None`` without a file.

    Raises:
        InputError: When the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return State(**{**content, "measured": Measured(**content["measured"])})
    except Exception:  # the unpickler raises anything on damaged bytes
        raise InputError(
            f"{path}: damaged; use --fresh to start again, or choose another --out"
        ) from None
