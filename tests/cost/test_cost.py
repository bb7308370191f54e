"""FLOPs against published figures and counts by hand; memory, energy, device and versions."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import nn

import medtransfer
from medtransfer.adaptation.finetune import finetune_flops, profile_learner
from medtransfer.adaptation.job import Job
from medtransfer.adaptation.probes import knn_flops, linear_flops
from medtransfer.cost import energy as energy_module
from medtransfer.cost.energy import Energy, measure_energy
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.cost.machine import device_name, peak_memory, reset_peak_memory, versions
from medtransfer.cost.profile import Profile, profile_encoder
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.encoder import Encoder, check_encoder
from medtransfer.evaluation.executors.processes import process_context
from medtransfer.specs.encoder import RANDOM_WEIGHTS, Architecture, EncoderCard, Input
from medtransfer.specs.protocol import FineTuning, Linear, Protocol, Run, load_protocol
from medtransfer.specs.task import load_card, resolve_tasks
from tests.conftest import ROOT, Small

CPU = torch.device("cpu")
PROFILE = Profile(forward=1000, training=3000, width=8)


def build(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


def make_encoder(network, *, size=16):
    card = EncoderCard(
        name="toy",
        architecture=Architecture(python="tests:toy"),
        input=Input(size=size, channels=1, mean=[0.5], std=[0.25]),
        pretraining=RANDOM_WEIGHTS,
    )
    encoder = Encoder(card, network, identity="cost", size=size).eval()
    check_encoder(encoder)
    return encoder


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("resnet18", 1.82),
        ("resnet50", 4.11),
        ("vit_base_patch16_224", 17.58),
        ("convnext_tiny", 4.47),
        ("efficientnet_b0", 0.39),
    ],
)
def test_forward_is_twice_the_published_macs(name: str, gmacs: float) -> None:
    """A multiplication and an addition are two FLOPs: twice timm's published GMACs at 224 px."""
    flops = forward_flops(build(name), channels=3, size=224)
    assert flops == pytest.approx(2e9 * gmacs, rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_tiny",
        "efficientnet_b0",
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "regnety_002",
    ],
)
def test_training_is_nearly_three_forward_passes(name: str) -> None:
    """Each layer's two gradients cost a forward pass each, the image's own is not needed."""
    network = build(name, num_classes=0)
    forward = forward_flops(network, channels=3, size=224)
    assert 2.8 <= training_flops(network, channels=3, size=224) / forward <= 3.05


@dataclass(frozen=True)
class Convolution:
    """A convolution and its multiplications and additions for one 12 px image, by hand."""

    layer: nn.Module
    flops: int


# 2 * output positions * kernel area * (input channels / groups) * output channels; for a transposed
# convolution the input's positions take the place of the output's.
CONVOLUTIONS = {
    "plain": Convolution(nn.Conv2d(8, 12, 3, padding=1), 2 * 12**2 * 9 * 8 * 12),
    "strided": Convolution(nn.Conv2d(8, 12, 3, stride=2, padding=1), 2 * 6**2 * 9 * 8 * 12),
    "dilated": Convolution(nn.Conv2d(8, 12, 3, dilation=2), 2 * 8**2 * 9 * 8 * 12),
    "grouped": Convolution(nn.Conv2d(8, 12, 3, padding=1, groups=4), 2 * 12**2 * 9 * 2 * 12),
    "depthwise": Convolution(nn.Conv2d(8, 8, 5, padding=2, groups=8), 2 * 12**2 * 25 * 8),
    "multiplied": Convolution(nn.Conv2d(8, 16, 3, padding=1, groups=8), 2 * 12**2 * 9 * 16),
    "transposed": Convolution(nn.ConvTranspose2d(8, 12, 2, stride=2), 2 * 12**2 * 4 * 8 * 12),
    "transposed in groups": Convolution(
        nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, groups=4), 2 * 12**2 * 9 * 2 * 12
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolutions_equal_a_count_by_hand(case: Convolution) -> None:
    """Groups divide the work of the forward pass and of both gradients alike."""
    alone = case.layer
    behind = nn.Sequential(nn.Conv2d(8, 8, 1), alone)  # so that the input's gradient is needed
    pointwise = 2 * 12**2 * 8 * 8
    counts = {"channels": 8, "size": 12}
    assert forward_flops(alone, **counts) == case.flops
    assert training_flops(alone, **counts) == 2 * case.flops
    assert training_flops(behind, **counts) == 3 * case.flops + 2 * pointwise


def test_linear_layers_equal_a_count_by_hand() -> None:
    """Two products of N x 48 by 48 x 10 and 10 x 6; the first layer's input needs no gradient."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 6))
    first, second = 2 * 48 * 10, 2 * 10 * 6
    assert forward_flops(network, channels=3, size=4) == first + second
    assert training_flops(network, channels=3, size=4) == 2 * first + 3 * second


def test_a_frozen_prefix_has_no_backward_pass() -> None:
    """What comes before the first trained layer costs its forward pass and nothing more."""
    prefix = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    network = nn.Sequential(prefix, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    first, second = 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 8 * 4
    assert training_flops(network, channels=3, size=8) == first + 2 * second
    network.requires_grad_(False)
    assert training_flops(network, channels=3, size=8) == first + second


def test_a_frozen_suffix_still_passes_the_gradient_on() -> None:
    """A frozen layer behind a trained one is charged for its input's gradient, not its weights'."""
    suffix = nn.Conv2d(8, 4, 3, padding=1).requires_grad_(False)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), suffix)
    first, second = 2 * 64 * 9 * 3 * 8, 2 * 64 * 9 * 8 * 4
    assert training_flops(network, channels=3, size=8) == 2 * first + 2 * second


def test_counting_changes_nothing() -> None:
    """Counts repeat exactly; weights, statistics, mode and device of the module stay."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    network[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    counts = [f(network, channels=3, size=8) for f in (forward_flops, training_flops) * 2]
    assert counts[:2] == counts[2:]
    assert {name: tensor.device for name, tensor in network.state_dict().items()} == dict.fromkeys(
        before, CPU
    )
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [False, False] + [True] * 4
    assert torch.equal(torch.get_rng_state(), generator)


def test_tied_weights_are_counted_where_they_are_used() -> None:
    """A layer that is used twice costs twice, in the copy on the meta device as well."""
    layer = nn.Conv2d(3, 3, 3, padding=1)
    once, twice = nn.Sequential(layer), nn.Sequential(layer, layer)
    assert forward_flops(twice, channels=3, size=8) == 2 * forward_flops(once, channels=3, size=8)


def test_flops_grow_with_the_input_size() -> None:
    """Four times the pixels are four times the FLOPs of a network without a final linear layer."""
    network = build("resnet18", num_classes=0)
    small, large = (forward_flops(network, channels=3, size=size) for size in (64, 128))
    assert large == 4 * small


class Numpy(nn.Module):
    """Features that leave torch, as HOG does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Mean rows."""
        return torch.from_numpy(images.numpy().mean(axis=(1, 2)))


class Filters(nn.Module):
    """Convolution with a buffer."""

    def __init__(self) -> None:
        """Draw the filters."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", torch.randn((5, 1, 3, 3), generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Average the rectified responses."""
        return nn.functional.conv2d(images, self.filters).relu().mean(dim=(2, 3))


def test_profiles_of_encoders_without_parameters() -> None:
    """Nothing to multiply costs nothing; filters in buffers cost their forward pass only."""
    flatten, hog, filters = (
        profile_encoder(make_encoder(network)) for network in (nn.Flatten(), Numpy(), Filters())
    )
    assert flatten == Profile(forward=0, training=0, width=256)
    assert hog == Profile(forward=0, training=0, width=16)
    products = 2 * 14**2 * 9 * 5
    assert filters == Profile(forward=products, training=products, width=5)


def test_the_profile_of_an_encoder_is_that_of_its_network() -> None:
    """Counted at the encoder's size and channels."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    profile = profile_encoder(make_encoder(network, size=24))
    forward = 2 * 24**2 * 9 * 4
    assert profile == Profile(forward=forward, training=2 * forward, width=16)


@pytest.fixture
def data(small: Small) -> TaskData:
    """60 training images of 3 classes and 24 for validation."""
    return open_task(load_card(small.card), folder=small.data)


def make_protocol(**finetune) -> Protocol:
    settings = {
        "budgets": {
            "5-shot": Run(draws=1, steps=5, batch=4),
            "10-shot": Run(draws=1, steps=7, batch=8),
            "full": Run(draws=2, steps=9, batch=16),
        },
        "learning_rates": [1e-4, 1e-3],
        **finetune,
    }
    linear = Linear(l2=[1e-3, 1e-2, 1e-1], folds=5)
    return load_protocol("quick").model_copy(
        update={"linear": linear, "finetune": FineTuning(**settings)}
    )


def make_job(data, budget, *, draw=0, previous=None, protocol=None) -> Job:
    encoder = make_encoder(nn.Flatten())
    return Job(encoder, data, protocol or make_protocol(), budget, draw, previous or {})


@pytest.mark.parametrize("flops", [knn_flops, linear_flops])
def test_probe_flops_grow_with_the_shots(flops, data: TaskData) -> None:
    """One more shot costs at least its own forward pass.

    The full budget stands apart: its L2 is selected without folds, so with fewer problems.
    """
    images = {"1-shot": 3, "5-shot": 15, "10-shot": 30, "100-shot": 60}
    rest = [
        flops(make_job(data, budget), PROFILE) - PROFILE.forward * count
        for budget, count in images.items()
    ]
    assert rest == sorted(rest)
    assert rest[0] >= 0


def test_knn_flops_are_the_features_of_the_shots(data: TaskData) -> None:
    """A neighbour search has no training: forward passes of the shots, and nothing else."""
    assert knn_flops(make_job(data, "5-shot"), PROFILE) == 15 * PROFILE.forward


@pytest.mark.parametrize(
    ("budget", "images", "items", "rank", "problems"),
    [
        ("1-shot", 3, 3, 3, 1),
        ("10-shot", 30, 30, 8, 1 + 3 * 5),  # three L2 values in five folds, then the result
        ("full", 60 + 24, 60, 8, 3),  # each L2 value once; validation needs features too
    ],
)
def test_linear_flops_equal_a_count_by_hand(
    data: TaskData, budget: str, images: int, items: int, rank: int, problems: int
) -> None:
    """Features, the rotation to N or D axes, and 100 gradients of two products a problem."""
    gradients = problems * 100 * 2 * (2 * items * rank * 3)
    rotation = 2 * items * 8 * rank
    expected = PROFILE.forward * images + gradients + rotation
    assert linear_flops(make_job(data, budget), PROFILE) == expected


STEP, SCORE = PROFILE.training, PROFILE.forward


@pytest.mark.parametrize(
    ("budget", "changes", "expected"),
    [
        # Two learning rates on 24 shots and scored on 6, then 7 steps on all 30.
        ("10-shot", {}, 3 * 7 * 8 * STEP + 2 * 6 * SCORE),
        # At least one of a class's five shots is held out.
        ("5-shot", {}, 3 * 5 * 4 * STEP + 2 * 3 * SCORE),
        ("full", {}, 2 * 9 * 16 * STEP + 2 * 24 * SCORE),
        # A single learning rate is not selected.
        ("10-shot", {"learning_rates": [1e-3]}, 7 * 8 * STEP),
        ("full", {"learning_rates": [1e-3]}, 9 * 16 * STEP),
        # 60 images are 4 batches of 16: scored after steps 4 and 8 and after the last one.
        ("full", {"learning_rates": [1e-3], "keep": "best"}, 9 * 16 * STEP + 3 * 24 * SCORE),
        ("10-shot", {"learning_rates": [1e-3], "keep": "best"}, 7 * 8 * STEP),
    ],
)
def test_finetune_flops_equal_a_count_by_hand(data, budget, changes, expected) -> None:
    """Every training step of the selection and of the result, and every scored image."""
    job = make_job(data, budget, protocol=make_protocol(**changes))
    assert finetune_flops(job, PROFILE) == expected


def test_later_draws_at_full_train_once(data: TaskData) -> None:
    """They reuse the learning rate of draw 0, so they cost half of it and score nothing."""
    job = make_job(data, "full", draw=1, previous={"lr": 1e-3})
    assert finetune_flops(job, PROFILE) == 9 * 16 * STEP


def test_epochs_cost_whole_batches(data: TaskData) -> None:
    """Two passes over 60 images in batches of 16 are eight steps."""
    protocol = make_protocol(
        budgets={"full": Run(draws=1, epochs=2, batch=16)}, learning_rates=[1e-3]
    )
    assert finetune_flops(make_job(data, "full", protocol=protocol), PROFILE) == 8 * 16 * STEP


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten()), 1),
        (nn.Flatten(), 0),  # nothing to train below the head: no gradient of its input
        (Filters(), 0),
    ],
)
def test_a_learner_costs_its_encoder_and_its_head(
    data: TaskData, network: nn.Module, inputs: int
) -> None:
    """The head adds a product forward, one for its weights' gradient, one for its input's."""
    job = replace(make_job(data, "full"), encoder=make_encoder(network))
    alone, learner = profile_encoder(job.encoder), profile_learner(job)
    head = 2 * job.encoder.width * 3
    assert learner.forward == alone.forward + head
    assert learner.training == alone.training + head * (2 + inputs)


def test_finetune_flops_grow_with_the_shots(data: TaskData) -> None:
    """With growing steps and batches a larger budget is never cheaper."""
    counts = [
        finetune_flops(make_job(data, budget), PROFILE) for budget in ("5-shot", "10-shot", "full")
    ]
    assert counts == sorted(set(counts))


def test_the_peak_is_positive_and_never_falls_by_itself() -> None:
    """Without a reset in between a later peak is at least the earlier one."""
    first = peak_memory(CPU)
    assert first > 0
    assert peak_memory(CPU) >= first


def test_a_reset_forgets_what_was_freed() -> None:
    """On Linux the peak holds an array that is gone until the reset, and not after it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        pytest.skip(f"the peak cannot be reset here: {error}")
    size, slack = 2**28, 2**24  # the kernel counts pages in batches
    reset_peak_memory(CPU)  # which gives back what earlier tests freed, or the array would use it
    before = peak_memory(CPU)
    array = np.ones(size // 8)
    with_array = peak_memory(CPU)
    del array
    freed = peak_memory(CPU)
    reset_peak_memory(CPU)
    after = peak_memory(CPU)
    assert with_array >= before + size - slack
    assert abs(freed - with_array) <= slack
    assert after <= freed - size + slack


@dataclass
class Processor:
    """A machine's files as Linux lays them out, with the counters in microjoules.

    Attributes:
        powercap: In place of ``/sys/class/powercap``.
        stat: In place of ``/proc/stat``.
        most: Where every counter wraps.
    """

    powercap: Path
    stat: Path
    most: int = 1_000_000

    def install(self, monkeypatch: pytest.MonkeyPatch, *, watch: float = 3600) -> None:
        """Have it measured; this process is all that ever works on it."""
        monkeypatch.setattr(energy_module, "_POWERCAP", self.powercap)
        monkeypatch.setattr(energy_module, "_STAT", self.stat)
        monkeypatch.setattr(energy_module, "_WATCH_SECONDS", watch)
        self.work(0)

    def count(self, domain: str, name: str, microjoules: int) -> None:
        """Set the counter of a domain, which is made where it is not there."""
        folder = self.powercap / domain
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{self.most}\n")
        (folder / "energy_uj").write_text(f"{microjoules}\n")

    def work(self, seconds: float) -> None:
        """Set how long all cores together have worked since they were started."""
        ticks = round(seconds * os.sysconf("SC_CLK_TCK"))
        self.stat.write_text(f"cpu  {ticks} 0 0 900 0 0 0 0 0 0\ncpu0 {ticks} 0 0 900\n")


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processor:
    """One package that has counted 600 mJ and wraps at 1 J."""
    processor = Processor(tmp_path / "powercap", tmp_path / "stat")
    processor.install(monkeypatch)
    processor.count("intel-rapl:0", "package-0", 600_000)
    return processor


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


def _remove_all(processor: Processor) -> None:
    processor.powercap.rename(processor.powercap.with_name("none"))


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


def test_a_record_says_who_counted(processor: Processor, small: Small, tmp_path: Path) -> None:
    """Joules with their source where a counter is read; neither where there is none."""
    request = {
        "protocol": "quick",
        "data": small.data,
        "task_folder": small.cards,
        "adaptations": ["knn"],
        "budgets": ["1-shot"],
        "device": "cpu",
    }
    (read, *_) = medtransfer.evaluate("pixels", out=tmp_path / "read", **request)
    assert read.cost is not None
    assert read.cost.energy_joules == 0.0
    assert read.environment["energy"] == "rapl"
    _remove_all(processor)
    (unread, *_) = medtransfer.evaluate("pixels", out=tmp_path / "unread", **request)
    assert unread.cost is not None
    assert unread.cost.energy_joules is None
    assert "energy" not in unread.environment


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


def test_the_machine_is_described() -> None:
    """The device has a name with its threads, and every version that decides numbers is there."""
    assert f", {torch.get_num_threads()} thread" in device_name(CPU)
    assert not device_name(CPU).startswith(",")
    found = versions()
    assert set(found) == {
        "python",
        "medtransfer",
        "torch",
        "torchvision",
        "timm",
        "monai",
        "peft",
        "numpy",
        "scikit-image",
        "commit",
    }
    assert all(found.values())
    assert torch.__version__.startswith(found["torch"])


def test_the_docs_count_what_v1_costs() -> None:
    """Their table follows from the protocol, the suite and the networks."""
    text = (ROOT / "docs" / "protocol.md").read_text()
    table = text.partition("What `v1` costs")[2].partition("Few-shot, each draw")[0]
    protocol = load_protocol("v1")
    assert protocol.finetune is not None
    assert protocol.segmentation is not None
    images = []
    for settings in (
        protocol.finetune,
        protocol.segmentation.decoder,
        protocol.segmentation.finetune,
    ):
        rates = len(settings.learning_rates)
        images.append(
            sum(
                # Few-shot every rate is tried, then the best one run again; at full it is kept.
                run.steps * run.batch * (run.draws * (rates + 1) if budget != "full" else 0)
                + run.steps * run.batch * (rates + run.draws - 1 if budget == "full" else 0)
                for budget, run in settings.budgets.items()
            )
        )
        assert f"{images[-1]:,}" in table
    kinds = [card.kind for card in resolve_tasks(names=[], suite="main-224").values()]
    masks = kinds.count("segmentation")
    assert f"{len(kinds) - masks} tasks of classes" in table
    assert f"{masks} tasks of masks" in table
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")]
    names = ("resnet50", "vit_base_patch16_224")
    for name, gigaflops, total in zip(names, rows[4], rows[5], strict=True):
        classes, decoder, tuned = (1e9 * float(number) for number in gigaflops.split(","))
        flops = training_flops(build(name, num_classes=10), channels=3, size=224)
        assert classes == pytest.approx(flops, rel=0.01)
        whole = (len(kinds) - masks) * images[0] * classes
        whole += masks * (images[1] * decoder + images[2] * tuned)
        assert whole == pytest.approx(1e18 * float(total.split()[0]), rel=0.02)
