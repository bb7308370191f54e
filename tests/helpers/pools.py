"""Pools of labelled images and small encoders for tests of pre-training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from medtransfer.data.split import Split
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.registry import find
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.pretraining.objectives import Batch, Objective
from medtransfer.pretraining.pool import Pool, Source
from medtransfer.specs.task import load_tasks

CPU = torch.device("cpu")


def make_split(labels: np.ndarray, *, size: int = 16) -> Split:
    """Noise with these labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), size, size), dtype=np.uint8)
    names = [f"item-{number}" for number in range(len(labels))]
    return Split(images, labels, names, sha256="0" * 64, origin="noise")


def make_pool(
    *sizes: int, batch: int = 8, balanced: bool = False, multilabel: bool = False
) -> Pool:
    """Sources of so many images; the first class of three is twice as common as the others."""
    card = load_tasks()["phantom_chest_findings" if multilabel else "phantom_ct"]
    sources = []
    for number, size in enumerate(sizes):
        labels = np.array([0, 0, 1, 2])[np.arange(size) % 4]
        if multilabel:
            labels = np.stack([(np.arange(size) % (k + 2) == 0) for k in range(5)], 1).astype(int)
            labels[0] = -1
        own = card.model_copy(update={"name": f"source-{number}"})
        sources.append(Source(own, make_split(labels), np.arange(size)))
    return Pool(tuple(sources), batch, balanced)


def make_encoder(name: str = "resnet_mini", *, size: int = 32, **architecture: object):
    """A registered network of random weights, at another size."""
    card = find(name).card
    update = {
        "input": card.input.model_copy(update={"size": size}),
        "architecture": card.architecture.model_copy(update=architecture),
    }
    return build_encoder(EncoderSource(card.model_copy(update=update)), max_size=size, device=CPU)


def make_batch(pool: Pool, *, views: int, size: int, draws: int = 0) -> Batch:
    """All images of a pool, as noise of the encoder's size."""
    generator = torch.Generator().manual_seed(1)
    count = len(pool)
    number = np.searchsorted(pool.starts, np.arange(count), side="right") - 1
    return Batch(
        views=tuple(
            255 * torch.rand((count, 3, size, size), generator=generator) for _ in range(views)
        ),
        source=torch.from_numpy(number),
        labels=tuple(torch.from_numpy(source.labels) for source in pool.sources),
        draws=torch.rand((draws, count), generator=generator),
        places=torch.arange(count),
    )


def draw_head(objective: Objective) -> None:
    """A linear head starts at zero, where nothing reaches the encoder: draw it, always the same."""
    if isinstance(objective.head, nn.Linear):
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(objective.head.weight, std=0.1, generator=generator)
