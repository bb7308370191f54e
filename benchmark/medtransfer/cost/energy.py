"""Energy from the device's own counter; ``None`` without one.

A GPU is read through NVML (NVIDIA, Volta or newer; the package ``nvidia-ml-py``): the board with
its memory, not the processor beside it. A processor is read through RAPL (Linux on Intel or AMD;
many systems let only root read it): its packages, not the main memory. Both count what the device
draws when idle too, for as long as the work takes.

A counter cannot tell processes apart. So no energy is reported if others use the device: cells that
run several at a time (``--jobs``), another process on the GPU, other work on the processor.

codecarbon reads the same two counters. If it can read neither, it falls back to an estimate from
a processor's nominal power, which must not pass for a measurement; and it needs twenty packages
to read a few small files.
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
    """Energy of a block of work.

    Attributes:
        joules: ``None`` if no counter can be read, or others used the device.
        source: The counter: ``nvml`` (GPU) or ``rapl`` (packages of the processor).
    """

    joules: float | None = None
    source: str | None = None


@contextmanager
def measure_energy(device: torch.device) -> Iterator[Energy]:
    """Measure the energy of a ``with`` block; the values are set when it ends.

    Args:
        device: The device of the work; only this one is counted.
    """
    energy = Energy()
    counter = _start_counter(device)
    try:
        yield energy
    finally:
        if counter is not None and (joules := counter.stop()) is not None:
            energy.joules, energy.source = round(joules, 3), counter.source


def _start_counter(device: torch.device) -> _Board | _Packages | None:
    if multiprocessing.parent_process() is not None:  # --jobs: other processes work beside this one
        return None
    try:
        if device.type == "cuda":
            return _Board(device)
        return _Packages() if device.type == "cpu" else None
    except Exception:  # no library, driver or permission, or too old
        return None


class _Board:
    """Counter of an NVIDIA GPU, in millijoules since its driver was loaded.

    It moves in steps, so a short cell's energy is rough; the sum over many is not.
    """

    source = "nvml"

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        # NVML counts all GPUs of the machine, torch those of CUDA_VISIBLE_DEVICES; a slice of a
        # GPU (MIG) has an identifier of its own, and no counter.
        identifier = torch.cuda.get_device_properties(device).uuid
        self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identifier}")
        self._alone = self._is_alone()  # at the start; again at the end
        self._begin = self._read()

    def stop(self) -> float | None:
        """Joules since the start."""
        try:
            used = self._read() - self._begin
            return used / 1000 if used >= 0 and self._alone and self._is_alone() else None
        except self._nvml.NVMLError:
            return None

    def _read(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))

    def _is_alone(self) -> bool:
        """Return whether no other process computes; those of other containers may be invisible."""
        return len(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) <= 1


class _Packages:
    """Counters of the processor's packages, in microjoules, which wrap around.

    Raises:
        OSError: When they may not be read.
        LookupError: When there are none.
    """

    source = "rapl"

    def __init__(self) -> None:
        # A platform ("psys") and parts of a package ("core", "dram") are no packages, and
        # intel-rapl-mmio counts packages a second time. Dies ("package-0-die-1") are left alone
        # too: on AMD older kernels show the package's whole energy for each.
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
        """Joules since the start."""
        self._ended.set()
        self._watcher.join()
        try:
            self._advance()
            busy = _busy_seconds() - self._busy
        except (OSError, ValueError):
            return None
        others = busy - (time.process_time() - self._own)
        # The system always does some work too; the kernel's ticks of 10 ms may err by a tenth of
        # a second.
        return self._used / 1e6 if others <= 0.1 * busy + 0.1 else None

    def _watch(self) -> None:
        """Notice every wrap-around: a cell may run for hours."""
        while not self._ended.wait(_WATCH_SECONDS):
            with suppress(OSError, ValueError):  # stop() will say so
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
    """Sum the seconds that the machine's cores have worked for all processes."""
    user, nice, system = _STAT.read_text("ascii").split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
