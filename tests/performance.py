"""`make performance`: how close the harness comes to the bare network, as ratios of one run.

Each row times two things alternately in this process and prints the median of their ratios, with
the smallest and the largest; absolute times would say more about the machine than about the code.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

_REPEATS = 5


def measure(ours: Callable[[], object], floor: Callable[[], object]) -> tuple[float, float, float]:
    """Median, smallest and largest of floor / ours over alternating runs; 1 is perfect."""
    ratios = []
    for repeat in range(_REPEATS + 1):
        clock = time.perf_counter()
        floor()
        middle = time.perf_counter()
        ours()
        end = time.perf_counter()
        if repeat:  # the first run warms up
            ratios.append((middle - clock) / (end - middle))
    return statistics.median(ratios), min(ratios), max(ratios)


def frozen_features(name: str, size: int, items: int) -> tuple[float, float, float]:
    """Embedding a split, against the bare forward of the same module on resident tensors."""
    from medtransfer.data.store import Split
    from medtransfer.encoders.features import _compute
    from medtransfer.encoders.loading import load_encoder

    encoder = load_encoder(name, max_size=size)
    images = np.random.default_rng(0).integers(0, 256, (items, size, size, 3), dtype=np.uint8)
    split = Split(images, np.zeros(items, np.int64), [""] * items, "", "")
    inputs = encoder.normalise(encoder.resample(torch.from_numpy(images)))
    inputs = inputs.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def floor() -> None:
        with encoder.autocast():
            for batch in inputs.split(128):
                encoder.network(batch)

    return measure(lambda: _compute(encoder, split), floor)


def finetuning(size: int, steps: int) -> tuple[float, float, float]:
    """Fine-tuning steps with augmentation, against bare steps on a resident batch."""
    from medtransfer.adaptation import Job
    from medtransfer.adaptation.finetune import _optimiser, _train
    from medtransfer.adaptation.learner import Classifier
    from medtransfer.data.store import open_task
    from medtransfer.encoders.loading import load_encoder
    from medtransfer.specs.protocol import Run, load_protocol
    from medtransfer.specs.task import load_tasks

    protocol = load_protocol("quick")
    assert protocol.finetune is not None
    run = Run(draws=1, steps=steps, batch=32)
    settings = protocol.finetune.model_copy(update={"budgets": {"full": run}})
    protocol = protocol.model_copy(update={"finetune": settings})
    encoder = load_encoder("resnet18", max_size=size)
    data = open_task(load_tasks()["phantom_chest_xray"], folder=None)
    job = Job(encoder=encoder, data=data, protocol=protocol, budget="full", draw=0)
    images = torch.from_numpy(np.array(data.splits["train"].images[:32]))
    labels = torch.from_numpy(data.splits["train"].labels[:32]).to(encoder.device)

    def floor() -> None:
        classifier = Classifier(encoder.duplicate(), 2, job.targets).train()
        optimiser, _ = _optimiser(classifier, settings, 1e-4, steps)
        pixels = classifier.encoder.resample(images)
        for _ in range(steps):
            loss = functional.cross_entropy(classifier(pixels), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

    return measure(lambda: _train(job, job.items, 1e-4), floor)


def main() -> None:
    """Print the table."""
    table = Table("what", "against", "share of the floor", "smallest - largest")
    rows = {
        ("frozen features, resnet18 @64", "bare forward"): lambda: frozen_features(
            "resnet18", 64, 512
        ),
        ("frozen features, resnet18 @224", "bare forward"): lambda: frozen_features(
            "resnet18", 224, 128
        ),
        ("fine-tuning, resnet18 @64", "bare forward, backward, step"): lambda: finetuning(64, 10),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCH_CACHE"] = folder
        for (what, against), run in rows.items():
            median, low, high = run()
            table.add_row(what, against, f"{median:.2f}", f"{low:.2f} - {high:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
