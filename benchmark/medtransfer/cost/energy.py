"""Energy from a device's own counter; unknown without one.

A GPU is read through NVML (NVIDIA, Volta or newer; the package ``nvidia-ml-py``): the board with
its memory, without the CPU. A CPU is read through RAPL (Linux on Intel or AMD; many systems let
only root read it): its packages, without the main memory. Both include idle power for the duration
of the work.

A counter does not distinguish processes. The energy is therefore unknown while others use the
device: parallel cells (``--jobs``), another process on the GPU, or other work on the CPU.

codecarbon reads the same counters. Without them it estimates energy from a CPU's nominal power,
which must not pass for a measurement, and it adds twenty packages for one call and a few files.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_POWERCAP = Path("/sys/class/powercap")
_STAT = Path("/proc/stat")
_WATCH_SECONDS = 30.0  # the smallest counters wrap at 65 kJ: after 160 s at 400 W


@dataclass
class Energy:
    """Measured energy.

    Attributes:
        joules: ``None`` if there is no readable counter, or others used the device.
        source: The counter: ``nvml`` of the GPU, or ``rapl`` of the CPU's packages.
    """

    joules: float | None = None
    source: str | None = None


@contextmanager
def measure_energy(device: torch.device) -> Iterator[Energy]:
    """Measure the energy of a ``with`` block on a device; the result is set when it ends."""
    energy = Energy()
    counter = _start_counter(device)
    try:
        yield energy
    finally:
        if counter is not None and (joules := counter.stop()) is not None:
            energy.joules, energy.source = round(joules, 3), counter.source


def _start_counter(device: torch.device) -> _Board | _Packages | None:
    if multiprocessing.parent_process() is not None:  # --jobs: other processes work in parallel
        return None
    try:
        if device.type == "cuda":
            return _Board(device)
        return _Packages() if device.type == "cpu" else None
    except Exception:  # no library, driver or permission, or too old
        return None


class _Board:
    """Counter of an NVIDIA GPU, in millijoules since its driver was loaded.

    It advances in steps, so the energy of a short cell is rough; the sum over many is not.
    """

    source = "nvml"

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        # NVML numbers all GPUs of the machine, torch those of CUDA_VISIBLE_DEVICES; a slice of a
        # GPU (MIG) has its own identifier and no counter.
        identifier = torch.cuda.get_device_properties(device).uuid
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identifier}")
        self._alone = self._is_alone()  # checked again at the end
        self._begin = self._read()

    def stop(self) -> float | None:
        """Return the joules since the start."""
        try:
            used = self._read() - self._begin
            return used / 1000 if used >= 0 and self._alone and self._is_alone() else None
        except self._nvml.NVMLError:
            return None

    def _read(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def _is_alone(self) -> bool:
        """Check for other processes on the GPU; those of other containers may be invisible."""
        return len(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) <= 1


class _Packages:
    """Counters of the CPU's packages, in microjoules, which wrap.

    Raises:
        OSError: When they cannot be read.
        LookupError: When there are none.
    """

    source = "rapl"

    def __init__(self) -> None:
        # Skip the platform ("psys") and parts of packages ("core", "dram"), and intel-rapl-mmio,
        # which counts packages again. Skip dies ("package-0-die-1"), too: on AMD, older kernels
        # show the package's whole energy for each.
        self._folders = [
            folder
            for folder in sorted(_POWERCAP.glob("intel-rapl:*"))
            if re.fullmatch(r"package-\d+", (folder / "name").read_text("ascii").strip())
        ]
        if not self._folders:
            raise LookupError("no packages")
        self._ranges = [_read_number(folder / "max_energy_range_uj") for folder in self._folders]
        self._last = self._read()
        self._used = 0
        self._busy, self._own = _busy_seconds(), time.process_time()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> float | None:
        """Return the joules since the start."""
        self._ended.set()
        self._watcher.join()
        try:
            self._advance()
            busy = _busy_seconds() - self._busy
        except (OSError, ValueError):
            return None
        others = busy - (time.process_time() - self._own)
        # The system always does some work; the kernel's ticks of 10 ms may err by 0.1 s.
        return self._used / 1e6 if others <= 0.1 * busy + 0.1 else None

    def _watch(self) -> None:
        """Read the counters often enough to see every wrap."""
        while not self._ended.wait(_WATCH_SECONDS):
            with suppress(OSError, ValueError):  # stop() handles them
                self._advance()

    def _advance(self) -> None:
        now = self._read()
        steps = zip(now, self._last, self._ranges, strict=True)
        self._used += sum((after - before) % most for after, before, most in steps)
        self._last = now

    def _read(self) -> list[int]:
        return [_read_number(folder / "energy_uj") for folder in self._folders]


def _read_number(path: Path) -> int:
    return int(path.read_text("ascii"))


def _busy_seconds() -> float:
    """Return the CPU seconds of all processes on the machine."""
    user, nice, system = _STAT.read_text("ascii").split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
