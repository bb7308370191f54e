"""Energy of processors and GPUs: what is counted, claimed, or null."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medtransfer.cost import energy as energy_module
from medtransfer.cost.energy import Energy, measure_energy
from medtransfer.evaluation.executors.jobs import process_context
from tests.helpers.cost import CPU, Processor, _remove_all


def test_packages_are_summed_and_nothing_else(processor: Processor) -> None:
    """Two packages count; their parts, the platform and the second view of a package do not."""
    domains = {
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for domain, name in domains.items():
        processor.count(domain, name, 0)
    with measure_energy(CPU) as energy:
        processor.count("intel-rapl:0", "package-0", 700_000)
        for domain, name in domains.items():
            processor.count(domain, name, 250_000)
    assert energy == Energy(0.35, "rapl")


def test_dies_are_no_packages(processor: Processor) -> None:
    """Older kernels show an AMD package once for each of its dies, so their sum is no energy."""
    for die in (0, 1):
        processor.count(f"intel-rapl:{die}", f"package-0-die-{die}", 0)
    with measure_energy(CPU) as energy:
        pass
    assert energy == Energy()


def test_a_wrapped_counter_goes_on(processor: Processor) -> None:
    """From 600 mJ over 1000 mJ to 100 mJ are 500 mJ."""
    with measure_energy(CPU) as energy:
        processor.count("intel-rapl:0", "package-0", 100_000)
    assert energy.joules == 0.5


def test_no_wrap_of_a_long_cell_is_missed(
    processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that wraps twice is seen in between, and the watcher ends with the work."""
    processor.install(monkeypatch, watch=0.001)
    folder = processor.powercap / "intel-rapl:0"
    read = energy_module._read_number
    seen: list[int] = []

    def look(path: Path) -> int:
        seen.append(read(path))
        return seen[-1]

    monkeypatch.setattr(energy_module, "_read_number", look)
    threads = threading.active_count()
    with measure_energy(CPU) as energy:
        for microjoules in (300_000, 900_000, 500_000, 600_000):
            (folder / "next").write_text(str(microjoules))
            (folder / "next").replace(folder / "energy_uj")  # never half of it
            deadline = time.monotonic() + 30
            while seen[-1] != microjoules and time.monotonic() < deadline:
                time.sleep(0.001)
        assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert energy.joules == 2.0  # 0.7 + 0.6 + 0.6 + 0.1


def test_the_work_of_others_is_not_claimed(processor: Processor) -> None:
    """Half a second that other processes worked is too much; what this process did is its own."""
    with measure_energy(CPU) as energy:
        processor.work(0.5)
        processor.count("intel-rapl:0", "package-0", 900_000)
    assert energy == Energy()
    processor.work(0)
    with measure_energy(CPU) as energy:
        clock = time.process_time()
        while time.process_time() < clock + 0.4:
            sum(range(1000))
        processor.work(0.4)
    assert energy == Energy(0.0, "rapl")


def _measure_in_worker(processor: Processor) -> tuple[Energy, bool]:
    """What a process of a pool measures, and whether there was a counter to read."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        processor.install(monkeypatch)
        with measure_energy(CPU) as energy:
            pass
        return energy, energy_module._Packages().stop() is not None


def test_cells_that_run_at_a_time_claim_nothing(processor: Processor) -> None:
    """The processes of --jobs share the counter, so none of them reads it."""
    with ProcessPoolExecutor(1, mp_context=process_context()) as pool:
        energy, readable = pool.submit(_measure_in_worker, processor).result()
    assert readable
    assert energy == Energy()


def _forbid(processor: Processor) -> None:
    counter = processor.powercap / "intel-rapl:0" / "energy_uj"
    counter.unlink()
    counter.mkdir()  # root may read every file, but none a folder


def _spoil(processor: Processor) -> None:
    (processor.powercap / "intel-rapl:0" / "energy_uj").write_text("\n")


def _forbid_one_of_two(processor: Processor) -> None:
    processor.count("intel-rapl:1", "package-1", 0)
    _forbid(processor)


@pytest.mark.parametrize("change", [_remove_all, _forbid, _spoil, _forbid_one_of_two])
@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_read_is_null(
    processor: Processor,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Processor], None],
    late: bool,
) -> None:
    """No counters, no permission, part of the packages: no number, no error and not a word."""
    if not late:
        change(processor)
    with measure_energy(CPU) as energy:
        if late:
            change(processor)
    assert energy == Energy()
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_work_passes_through(processor: Processor) -> None:
    """Nothing of it is lost, and the watcher ends."""
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), measure_energy(CPU):
        _ = 1 / 0
    assert threading.active_count() == threads


@dataclass
class Nvml:
    """A GPU's counter as ``pynvml`` gives it; there is no GPU where these tests run."""

    millijoules: list[int]
    processes: list[int] = field(default_factory=lambda: [1, 1])

    class NVMLError(Exception):
        """What every call may raise."""

    def nvmlInit(self) -> None:
        """Load the library."""

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:
        """Find the GPU, not the first of the machine."""
        if name != "GPU-4d2f":
            raise self.NVMLError(name)
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        """The next count."""
        if not self.millijoules:
            raise self.NVMLError("not supported")
        return self.millijoules.pop(0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[object]:
        """The next list of processes."""
        return [object()] * self.processes.pop(0)


@pytest.mark.parametrize(
    ("nvml", "uuid", "expected"),
    [
        (Nvml([2_000, 3_500]), "4d2f", Energy(1.5, "nvml")),
        (Nvml([2_000, 3_500], processes=[0, 0]), "4d2f", Energy(1.5, "nvml")),  # not shown to all
        (Nvml([2_000, 3_500], processes=[2, 1]), "4d2f", Energy()),
        (Nvml([2_000, 3_500], processes=[1, 2]), "4d2f", Energy()),
        (Nvml([2_000, 3_500]), "another", Energy()),
        (Nvml([2_000, 100]), "4d2f", Energy()),  # the driver was loaded anew
        (Nvml([2_000]), "4d2f", Energy()),
        (Nvml([]), "4d2f", Energy()),
    ],
)
def test_a_gpu_is_read_where_it_works_for_this_process_alone(
    monkeypatch: pytest.MonkeyPatch, nvml: Nvml, uuid: str, expected: Energy
) -> None:
    """The GPU in use, in joules; nothing where others use it or it does not count."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid)
    )
    with measure_energy(torch.device("cuda")) as energy:
        pass
    assert energy == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_of_this_machine() -> None:
    """Work of a second is counted, or nothing is: 1 W to 2 kW."""
    pytest.importorskip("pynvml")
    matrix = torch.ones((4096, 4096), device="cuda")
    clock = time.perf_counter()
    with measure_energy(matrix.device) as energy:
        while time.perf_counter() < clock + 1:
            (matrix @ matrix).sum().item()
    assert energy.joules is None or 1 < energy.joules < 2000


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_a_device_without_a_counter_is_null(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    processor: Processor,
    device: str,
) -> None:
    """Without nvidia-ml-py there is no number and no message; the processor's is another's."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with measure_energy(torch.device(device)) as energy:
        pass
    assert energy == Energy()
    assert capfd.readouterr() == ("", "")
