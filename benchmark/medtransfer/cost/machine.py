"""Name and memory of the machine, and versions of the software."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from medtransfer.acceleration.malloc import glibc


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or the processor's with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if (libc := glibc()) is not None:
        libc.malloc_trim(0)  # do not charge a cell for memory that an earlier one freed
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM on Linux
    except OSError:
        return


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes since the last reset: allocated on a GPU, else resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@cache
def versions() -> dict[str, str]:
    """List the versions of Python, of the libraries that affect numbers, and of this code."""
    names = ["medtransfer", "torch", "torchvision", "timm", "monai", "numpy", "scikit-image"]
    names += ["peft"] if find_spec("peft") else []
    libraries = {name: importlib.metadata.version(name) for name in names}
    libraries["torch"] = torch.__version__  # with the build's tag
    return {"python": platform.python_version(), **libraries, "commit": _commit() or "unknown"}


def _commit() -> str | None:
    """Return the commit of this checkout, marked if files differ from it."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():  # installed; a repository above is not this one
        return None
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
