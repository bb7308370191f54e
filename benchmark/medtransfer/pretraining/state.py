"""State of a run for resuming, in one file written atomically."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from medtransfer.core.errors import InputError, RunError, reason
from medtransfer.core.files import replace


@dataclass
class Measured:
    """Cost of the steps so far, over all calls of the run.

    Attributes:
        flops: FLOPs of the steps.
        full_flops: FLOPs of the same steps if all parameters were trained.
        seconds: Wall time.
        device_seconds: Wall time summed over devices.
        peak_memory_bytes: Largest peak of one process.
        energy_joules: ``None`` unless the device's counter could be read throughout.
    """

    flops: int = 0
    full_flops: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0
    peak_memory_bytes: int = 0
    energy_joules: float | None = 0.0


@dataclass
class State:
    """State of a run between two steps. The step number seeds all random numbers.

    Attributes:
        fingerprint: SHA-256 of all that decides the weights.
        step: Finished steps.
        objective: Weights of the encoder and its head.
        optimiser: State of the optimiser and the schedule; empty between two phases.
        losses: Loss of every step, averaged over devices.
        measured: Cost so far.
        passed: Mask of the images that went through a cached frozen prefix, bool (N,).
    """

    fingerprint: str
    step: int
    objective: dict[str, Any]
    optimiser: dict[str, Any]
    losses: list[float]
    measured: Measured = field(default_factory=Measured)
    passed: torch.Tensor | None = None


def write_state(path: Path, state: State) -> None:
    """Replace the state on disk."""
    buffer = io.BytesIO()
    torch.save({**vars(state), "measured": vars(state.measured)}, buffer)
    try:
        replace(path, buffer.getvalue())
    except OSError as error:
        remedy = "resume from the state before it" if path.exists() else "start from the beginning"
        raise RunError(
            f"{path}: cannot be written: {reason(error)}; free some space and run the same command "
            f"again to {remedy}"
        ) from None


def read_state(path: Path) -> State | None:
    """Read the state on disk, or return ``None`` if there is none."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return State(**{**content, "measured": Measured(**content["measured"])})
    except Exception:  # the unpickler raises errors of any type on damaged bytes
        raise InputError(
            f"{path}: damaged; choose another --out, or --fresh to start again"
        ) from None
