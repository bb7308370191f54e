"""Partial fine-tuning and low-rank updates: what learns, what rests, what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import StdConv2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medtransfer import ranking
from medtransfer.adaptation import ADAPTATIONS
from medtransfer.adaptation.finetune import _train, profile_learner
from medtransfer.adaptation.job import Job
from medtransfer.adaptation.learner import Classifier
from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.core.errors import InputError
from medtransfer.cost.profile import profile_encoder
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.encoder import Encoder, check_encoder
from medtransfer.encoders.timm_networks import TimmNetwork
from medtransfer.evaluation import request as requests
from medtransfer.evaluation.cells import plan_cells
from medtransfer.specs.encoder import Architecture, EncoderCard, Input, PretrainingCard
from medtransfer.specs.protocol import OPTIONAL, Lora, Partial, load_protocol
from medtransfer.specs.record import read_records
from medtransfer.specs.task import load_card
from tests.conftest import Bench, Small

PROTOCOL = load_protocol("quick").model_copy(
    update={
        "partial": Partial(share=0.25),
        "lora": Lora(rank=4, alpha=8, learning_rates=[1e-2]),
    }
)
TRANSFORMER = {"embed_dim": 24, "num_heads": 2, "img_size": 32, "patch_size": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {"zero_init_last": False},  # a frozen factor of zero lets no gradient through
    "resnext26ts": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "tf_mobilenetv3_small_minimal_100": {},
    "vit_tiny_patch16_224": {**TRANSFORMER, "depth": 8},
    "beit_base_patch16_224": {**TRANSFORMER, "depth": 4},
}


def make_encoder(network: nn.Module, *, identity: str = "trainable") -> Encoder:
    card = EncoderCard(
        name="toy",
        architecture=Architecture(python="tests:toy"),
        input=Input(size=32),
        pretraining=PretrainingCard(objective="supervised"),
    )
    encoder = Encoder(card, network, identity=identity, size=32).eval()
    check_encoder(encoder)
    return encoder


def build(name: str) -> Encoder:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **ARCHITECTURES[name])
    return make_encoder(TimmNetwork(network), identity=name)


def learning(encoder: Encoder) -> dict[str, nn.Parameter]:
    named = encoder.inner.named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def draw_pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 40, 40, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("maps", [False, True], ids=["embedding", "maps"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("adaptation", OPTIONAL)
def test_what_learns_gets_a_gradient_and_the_rest_rests(
    adaptation: str, name: str, maps: bool
) -> None:
    """It starts as the encoder it was; only what is named learns; frozen batch norms stay put."""
    encoder, pixels = build(name), draw_pixels()
    before = encoder(pixels)
    encoder = prepare_encoder(encoder, adaptation, PROTOCOL, maps=maps)
    assert (encoder.eval()(pixels) - before).abs().max() < 1e-3 * before.abs().max()
    encoder.train()
    chosen = learning(encoder)
    assert chosen
    if maps:
        levels = encoder.pyramid(encoder.normalise(encoder.resample(pixels)))
        loss = torch.stack([level.square().mean() for level in levels]).sum()
    else:
        loss = encoder(pixels)[:, 0].sum()
    loss.backward()
    reached = {n for n, p in encoder.named_parameters() if p.grad is not None}
    learns = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert reached and reached <= learns
    # What makes an embedding of the deepest map is no part of the maps.
    assert reached == learns or (maps and adaptation == "partial")
    for module in encoder.modules():
        if isinstance(module, _BatchNorm):
            assert module.training == any(p.requires_grad for p in module.parameters())
    assert all("lora_" in name for name in chosen) == (adaptation == "lora")


@pytest.mark.parametrize(
    ("name", "deepest", "shallower"),
    [
        ("resnet18", ("layer4.0.", "layer4.1."), "layer3.1."),  # 2 of a stem and 8 blocks
        ("vit_tiny_patch16_224", ("blocks.6.", "blocks.7.", "norm."), "blocks.5."),  # 2 of 9
    ],
)
def test_partial_trains_the_last_quarter(
    name: str, deepest: tuple[str, ...], shallower: str
) -> None:
    """Exactly the parameters of the deepest layer groups, with the norm that follows them."""
    encoder = build(name)
    encoder = prepare_encoder(encoder, "partial", PROTOCOL, maps=False)
    names = dict(encoder.inner.named_parameters())
    assert any(name.startswith(shallower) for name in names)
    assert set(learning(encoder)) == {name for name in names if name.startswith(deepest)}


@pytest.mark.parametrize("name", ["resnet18", "resnext26ts", "vit_tiny_patch16_224"])
def test_updates_are_of_every_linear_layer_and_ungrouped_convolution(name: str) -> None:
    """Rank r takes r (in k k + out) parameters each, counted from the network's own layers."""
    encoder = build(name)
    expected = 0
    for module in encoder.inner.modules():
        if isinstance(module, nn.Linear):
            expected += 4 * (module.in_features + module.out_features)
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            area = module.kernel_size[0] * module.kernel_size[1]
            expected += 4 * (module.in_channels * area + module.out_channels)
    encoder = prepare_encoder(encoder, "lora", PROTOCOL, maps=False)
    assert sum(parameter.numel() for parameter in learning(encoder).values()) == expected


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("beit_base_patch16_224", "attn.qkv"),  # its weight is read, the layer never called
        ("tf_mobilenetv3_small_minimal_100", "conv_stem"),  # pads by the size of its input
        ("resnext26ts", "conv2_kxk.conv"),  # grouped
    ],
)
def test_layers_that_take_no_update_are_left_alone(name: str, without: str) -> None:
    """An update that is never used, or of another shape, would be counted and learn nothing."""
    encoder = build(name)
    assert any(without in key for key in dict(encoder.inner.named_modules()))
    encoder = prepare_encoder(encoder, "lora", PROTOCOL, maps=False)
    assert not any(f"{without}." in key for key in learning(encoder))


class Layers(nn.Module):
    """Four square products of an image's 48 numbers."""

    def __init__(self) -> None:
        """Without biases."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(48, 48, bias=False) for _ in range(4))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From images to the last product (N, 48)."""
        features = nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        for layer in self.layers:
            features = layer(features)
        return features


class ToldLayers(Layers):
    """The same, which tells its layers apart as timm's networks do."""

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """One group a layer."""
        return {"stem": r"^nothing", "blocks": r"^layers\.(\d+)"}


def test_costs_equal_a_count_by_hand() -> None:
    """A frozen layer below all that learns costs its forward pass; one above it a gradient more."""
    product = 2 * 48 * 48
    whole = profile_encoder(make_encoder(ToldLayers()))
    # Forward, weights' gradients, and inputs' gradients but the first.
    assert (whole.forward, whole.training) == (4 * product, (4 + 4 + 3) * product)
    encoder = make_encoder(ToldLayers())
    encoder = prepare_encoder(encoder, "partial", PROTOCOL, maps=False)
    partial = profile_encoder(encoder)
    assert (partial.forward, partial.training) == (4 * product, (4 + 1) * product)
    encoder = make_encoder(ToldLayers())
    encoder = prepare_encoder(encoder, "lora", PROTOCOL, maps=False)
    update = 2 * 48 * 4  # one of its two thin products
    lora = profile_encoder(encoder)
    assert lora.forward == 4 * (product + 2 * update)
    # Of each update both weights' gradients and the gradient between them; and, but for the first
    # layer, the input's gradient through the update and through the frozen weights.
    assert lora.training == lora.forward + 4 * 3 * update + 3 * (update + product)


class Attention(nn.Module):
    """Torch's own transformer layer, which takes a fused path in prediction."""

    def __init__(self) -> None:
        """Sixteen tokens."""
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From images to the mean token (N, 16)."""
        tokens: torch.Tensor = self.layer(self.patches(pixels).flatten(2).transpose(1, 2))
        return tokens.mean(1)


class Twice(nn.Module):
    """A layer of two names, and one of one."""

    def __init__(self) -> None:
        """The first name is never called."""
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, 4)
        self.features = nn.Sequential(self.first, nn.ReLU())
        self.head = nn.Linear(8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """From images to (N, 8)."""
        embedding: torch.Tensor = self.head(self.features(pixels).mean(dim=(2, 3)))
        return embedding


def freeze(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False)


@pytest.mark.parametrize(
    ("network", "adaptation", "message"),
    [
        (Layers(), "partial", "toy: does not tell its layers apart"),
        (nn.Flatten(), "lora", "toy: calls no plain linear layer and no plain ungrouped"),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten()), "lora", "toy: calls no plain"),
        (nn.Sequential(nn.Conv2d(3, 2, 3, dilation=2), nn.Flatten()), "lora", "calls no plain"),
        (nn.Sequential(StdConv2d(3, 2, 3), nn.Flatten()), "lora", "toy: calls no plain"),
        (Attention(), "lora", "toy: takes another way through its layers in training"),
        (freeze(ToldLayers()), "partial", "toy: all that partial would train is frozen"),
        (freeze(Layers()), "finetune", "toy: all that finetune would train is frozen"),
        (Layers(), "decoder", "toy: gives one vector an image and no feature maps"),
    ],
)
def test_encoders_without_a_target_are_refused(
    network: nn.Module, adaptation: str, message: str
) -> None:
    """In one line, before anything runs; and the encoder itself stays as it was."""
    encoder = make_encoder(network)
    before = [parameter.requires_grad for parameter in encoder.parameters()]
    state = torch.get_rng_state()
    with pytest.raises(InputError, match=message):
        prepare_encoder(encoder, adaptation, PROTOCOL, maps=adaptation == "decoder")
    assert [parameter.requires_grad for parameter in encoder.parameters()] == before
    assert torch.equal(torch.get_rng_state(), state)


def test_updates_stand_where_the_network_calls_them() -> None:
    """Of a layer under two names peft replaces the first; if the second is called, it is none."""
    encoder = prepare_encoder(make_encoder(Twice()), "lora", PROTOCOL, maps=False)
    assert {name.split(".")[0] for name in learning(encoder)} == {"head"}


@pytest.mark.parametrize(("adaptation", "moves"), [("decoder", False), ("finetune", True)])
def test_batch_norm_without_parameters_rests_with_its_encoder(adaptation: str, moves: bool) -> None:
    """A frozen encoder's statistics stay; a trained one's follow, whatever else it has fixed."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4, affine=False))
            self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)

        def forward_intermediates(self, pixels: torch.Tensor) -> list[torch.Tensor]:
            features = self.layers(pixels) + self.fixed
            return [nn.functional.avg_pool2d(features, 2**level) for level in range(4)]

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.forward_intermediates(pixels)[0].mean(dim=(2, 3))

    encoder = prepare_encoder(make_encoder(Normed()), adaptation, PROTOCOL, maps=True)
    encoder.train()
    norm = next(module for module in encoder.modules() if isinstance(module, _BatchNorm))
    assert norm.training == moves


@pytest.mark.parametrize("adaptation", [*OPTIONAL, "finetune"])
def test_what_diverges_is_recorded_with_what_it_would_train(
    data: TaskData, adaptation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same numbers of parameters as of a run that ends well."""
    job = Job(build("vit_tiny_patch16_224"), data, PROTOCOL, "10-shot", 0, adaptation=adaptation)
    well = ADAPTATIONS[adaptation].adapt(job)
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(Classifier, "loss", lambda *_: nan)
    badly = ADAPTATIONS[adaptation].adapt(job)
    assert badly.diverged and not well.diverged
    assert badly.trainable_parameters == well.trainable_parameters
    assert badly.parameters == well.parameters


DEEP = """
import torch
from medtransfer import EncoderCard, register
from medtransfer.encoders.registry import built_by

class Deep(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(3 if i == 0 else 64, 64, 3, 4 if i == 0 else 1, 1) for i in range(8)
        )

    def group_matcher(self, coarse=False):
        return {"stem": r"^nothing", "blocks": r"^layers\\.(\\d+)"}

    def forward(self, images):
        for layer in self.layers:
            images = layer(images).relu()
        return images.mean(dim=(2, 3))

def build():
    return Deep()

register(EncoderCard(name="deep", architecture=built_by(build), input={"size": 16}), build)
"""


@pytest.fixture
def data(small: Small) -> TaskData:
    """60 training images of 3 classes, 24 for validation, 36 for the test."""
    return open_task(load_card(small.card), folder=small.data)


@pytest.mark.parametrize("adaptation", OPTIONAL)
def test_frozen_weights_and_statistics_do_not_move(data: TaskData, adaptation: str) -> None:
    """After training all that is frozen is bit-identical, and what learns has moved."""
    encoder = build("resnet18")
    job = Job(encoder, data, PROTOCOL, "10-shot", 0, adaptation=adaptation)
    learner, _ = _train(job, job.items, 1e-2)
    assert learner is not None
    before = encoder.inner.state_dict()
    after = learner.encoder.inner.state_dict()
    moved = {
        name
        for name, tensor in after.items()
        if not torch.equal(before.get(name.replace(".base_layer", ""), torch.tensor(0.0)), tensor)
    }
    if adaptation == "partial":
        assert {name.split(".")[0] for name in moved} == {"layer4"}
        assert any(name.endswith("running_mean") for name in moved)
    else:
        assert {name for name in after if "lora_" in name} == moved
        assert all(after[name].any() for name in moved if "lora_B" in name)
    assert not any("lora_" in name for name in before)


def test_results_repeat_and_leave_torchs_generator_alone(data: TaskData) -> None:
    """The updates' random starts come from the cell's seed."""
    encoder = build("vit_tiny_patch16_224")
    job = Job(encoder, data, PROTOCOL, "10-shot", 0, adaptation="lora")
    state = torch.get_rng_state()
    profile_learner(job)
    first = ADAPTATIONS["lora"].adapt(job)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = ADAPTATIONS["lora"].adapt(replace(job))
    for name, array in first.predictions.items():
        assert (second.predictions[name] == array).all()


def test_optional_adaptations_are_run_only_when_named(data: TaskData) -> None:
    """By default a plan has the ranked ones alone."""
    cards = {"small": data.card}
    assert not {cell.adaptation for cell in plan_cells(cards, PROTOCOL)} & set(OPTIONAL)
    named = plan_cells(cards, PROTOCOL, adaptations=["lora", "linear"])
    assert {cell.adaptation for cell in named} == {"lora", "linear"}


def test_side_by_side_through_the_command_line(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Run, shown beside the ranked ones with what each trained and cost, and never ranked."""
    (tmp_path / "deep.py").write_text(DEEP)
    arguments = (
        *("evaluate", "--encoder", tmp_path / "deep.py", "--protocol", "quick"),
        *("--out", tmp_path / "out", "--tasks", small.cards, "--data", small.data),
        *("--budget", "10-shot"),
    )
    names = ("linear", "partial", "lora", "finetune")
    chosen = [word for name in names for word in ("--adaptation", name)]
    outcome = bench(*arguments, *chosen)
    assert outcome.code == 0, outcome.err
    assert "Trained parameters" in outcome.out
    path = tmp_path / "out" / "deep" / "records.jsonl"
    records = {r.adaptation: r for r in read_records(path) if r.draw == 0}
    assert set(records) == set(names)
    costs = {name: record.cost for name, record in records.items()}
    trained = {name: cost.trainable_parameters for name, cost in costs.items() if cost}
    assert trained["linear"] < trained["lora"] < trained["partial"] < trained["finetune"]
    flops = {name: cost.adaptation_flops for name, cost in costs.items() if cost}
    assert flops["linear"] < flops["partial"] < flops["lora"] < flops["finetune"]
    # Those that are ranked share a hash.
    assert len({record.protocol.fingerprint for record in records.values()}) == 3
    lines = path.read_text()
    assert bench(*arguments, *chosen).code == 0
    assert path.read_text() == lines, "a finished cell was run again"
    [board] = ranking.shipped_boards(ranking.load_submissions([tmp_path / "out"]))
    assert board.table["expected"].item() == 16 and board.table["have"].item() == 4
    assert set(board.adaptations["adaptation"]) == set(names)
    page = ranking.render_markdown([board])
    assert "### Optional adaptations" in page and "lora 10-shot" in page


def test_what_an_encoder_cannot_do_is_left_out(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Said in a note where something else remains; refused where nothing does."""
    arguments = (
        *("evaluate", "--encoder", "pixels", "--protocol", "quick", "--out", tmp_path / "out"),
        *("--tasks", small.cards, "--data", small.data, "--budget", "10-shot"),
    )
    outcome = bench(*arguments, "--adaptation", "lora", "--adaptation", "knn")
    assert outcome.code == 0, outcome.err
    assert "note: skipped lora of small: pixels: calls no plain linear layer" in outcome.out
    refused = bench(*arguments, "--adaptation", "partial")
    assert refused.code == 2 and "pixels: does not tell its layers apart" in refused.err


def test_without_peft_the_extra_is_named(
    small: Small, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for lora and lacks it is told how to get it, though knn could be run."""
    monkeypatch.setattr(requests, "find_spec", lambda name: None)
    outcome = bench(
        *("evaluate", "--encoder", "pixels", "--out", tmp_path / "out", "--tasks", small.cards),
        *("--data", small.data, "--adaptation", "lora", "--adaptation", "knn"),
    )
    assert outcome.code == 2 and "pip install 'medtransfer[lora]'" in outcome.err
    assert not (tmp_path / "out").exists()
