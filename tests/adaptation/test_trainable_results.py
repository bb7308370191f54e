"""Results of partial fine-tuning and low-rank updates, through the command line too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medtransfer import ranking
from medtransfer.adaptation import ADAPTATIONS
from medtransfer.adaptation.finetune import _train, profile_learner
from medtransfer.adaptation.job import Job
from medtransfer.data.split import TaskData
from medtransfer.evaluation import request as requests
from medtransfer.evaluation.cells import plan_cells
from medtransfer.specs.protocol import OPTIONAL
from medtransfer.specs.record import read_records
from tests.conftest import Bench, Small
from tests.helpers.trainable import PROTOCOL, build

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
    assert not {cell.adaptation for cell in plan_cells(cards, PROTOCOL).cells} & set(OPTIONAL)
    named = plan_cells(cards, PROTOCOL, adaptations=["lora", "linear"]).cells
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
    assert "## Optional adaptations" in page and "lora 10-shot" in page


def test_what_an_encoder_cannot_do_is_left_out(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Said in a note where something else remains; refused where nothing does."""
    arguments = (
        *("evaluate", "--encoder", "pixels", "--protocol", "quick", "--out", tmp_path / "out"),
        *("--tasks", small.cards, "--data", small.data, "--budget", "10-shot"),
    )
    outcome = bench(*arguments, "--adaptation", "lora", "--adaptation", "knn")
    assert outcome.code == 0, outcome.err
    assert "note: skipped lora of small: pixels: no plain linear layer" in outcome.out
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
