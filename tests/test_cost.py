"""FLOPs against published figures and counts by hand; memory, device and versions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from medtransfer.adaptation.finetune import finetune_flops, profile_learner
from medtransfer.adaptation.job import Job
from medtransfer.adaptation.probes import knn_flops, linear_flops
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.cost.machine import device_name, peak_memory, reset_peak_memory, versions
from medtransfer.cost.profile import Profile, profile_encoder
from medtransfer.data.store import TaskData, open_task
from medtransfer.encoders.encoder import Encoder, check_encoder
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


def test_the_machine_is_described() -> None:
    """The device has a name with its threads, and every version that decides numbers is there."""
    assert f", {torch.get_num_threads()} threads" in device_name(CPU)
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


def test_the_readme_counts_what_v1_costs() -> None:
    """Its table follows from the protocol, the suite and the networks."""
    text = (ROOT / "README.md").read_text()
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
