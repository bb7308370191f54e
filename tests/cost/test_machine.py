"""Peak memory, device and versions in a record, and the costs in the README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import medtransfer
from medtransfer.cost.flops import training_flops
from medtransfer.cost.machine import device_name, peak_memory, reset_peak_memory, versions
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.task import resolve_tasks
from tests.conftest import ROOT, Small
from tests.helpers.cost import CPU, Processor, _remove_all, build


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
