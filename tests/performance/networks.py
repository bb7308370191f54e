"""Rows of `make performance` about networks: frozen features and training."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from medtransfer.adaptation import Job
from medtransfer.adaptation.finetune import _train
from medtransfer.adaptation.learner import Classifier
from medtransfer.data.split import Split, TaskData
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.features import frozen_features
from medtransfer.encoders.loading import load_encoder
from medtransfer.specs.protocol import FineTuning, Protocol, Run, load_protocol
from medtransfer.specs.task import load_tasks
from tests.performance.measure import Measured, Row, map_images, measure

__all__ = ["ROWS"]

_BATCH = 32
_RATE = 1e-4


def embed_split(name: str, size: int, items: int) -> Measured:
    """Frozen features of a memory-mapped split, from the file to the cache.

    Against the bare forward of the same module on resident tensors, of the same precision and in
    batches of the same size.
    """
    encoder = load_encoder(name, max_size=size)
    split = Split(map_images(items, size), np.zeros(items, np.int64), [""] * items, "", "")
    inputs = _normalise(encoder, split.images)
    versions = itertools.count()  # a split of another hash is embedded anew

    @torch.inference_mode()
    def floor() -> None:
        with encoder.autocast():
            for batch in torch.split(inputs, encoder.batch):
                encoder.network(batch)

    def ours() -> None:
        frozen_features(encoder, replace(split, sha256=str(next(versions))))

    return measure(ours, (floor, 1))


def train_epoch(size: int, items: int) -> Measured:
    """One epoch of fine-tuning a ResNet-18, with augmentation.

    Against as many bare forward, backward and optimiser steps on one resident batch.
    """
    training = _prepare("resnet18", size=size, items=items)
    inputs = _normalise(training.job.encoder, training.split.images[:_BATCH])
    labels = torch.from_numpy(training.split.labels[:_BATCH]).to(training.job.encoder.device)
    steps = items // _BATCH

    def floor() -> None:
        learner = Classifier(training.job.encoder.duplicate(), 2, training.job.targets).train()
        optimiser = torch.optim.AdamW(learner.parameters(), lr=_RATE, fused=True)
        for _ in range(steps):
            loss = functional.cross_entropy(learner.head(learner.encoder.embed(inputs)), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return measure(training.run, (floor, 1))


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images with their labels, as data sets usually give them."""

    def __init__(self, split: Split, transform: Callable[[Image.Image], Tensor]) -> None:
        """Take the images into memory, so that no disk is waited for."""
        self.images, self.labels, self.transform = np.array(split.images), split.labels, transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        """One image, changed at random, and its label."""
        return self.transform(Image.fromarray(self.images[item])), int(self.labels[item])


def train_epoch_usually(size: int, items: int) -> Measured:
    """The same epoch, against the way in which it is usually written.

    A data set of PIL images, torchvision's transforms of one image at a time, a loader with two
    worker processes (which are kept from epoch to epoch), fp32 and AdamW as it comes.
    """
    training = _prepare("resnet18", size=size, items=items)
    card, device = training.job.encoder.card, training.job.encoder.device
    steps = [
        transforms.RandomResizedCrop(size, scale=(0.8, 1)),
        transforms.ColorJitter(brightness=0.1, contrast=0.1),
        transforms.ToTensor(),
        transforms.Normalize(card.input.mean, card.input.std),
    ]
    loader = DataLoader(
        Pictures(training.split, transforms.Compose(steps)),
        batch_size=_BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )
    encoder = training.job.encoder
    start = encoder.duplicate().network.to(memory_format=torch.contiguous_format)

    def usual() -> None:
        network = nn.Sequential(start, nn.Linear(encoder.width, 2, device=device)).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE)
        for images, labels in loader:
            loss = functional.cross_entropy(network(images.to(device)), labels.to(device))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return measure(training.run, (usual, 1))


def train_partially(name: str, steps: int) -> Measured:
    """Steps of partial fine-tuning, of the deepest quarter, against as many of full."""
    partially = _prepare(name, size=64, items=steps * _BATCH, adaptation="partial")
    fully = _prepare(name, size=64, items=steps * _BATCH)
    return measure(partially.run, (fully.run, 1))


@dataclass(frozen=True)
class Training:
    """One epoch, as a cell runs it."""

    job: Job
    settings: FineTuning

    @property
    def split(self) -> Split:
        """What is trained on."""
        return self.job.data.splits["train"]

    def run(self) -> None:
        """Train from the start."""
        _train(self.job, self.job.items, _RATE, micro_batch=_BATCH)


def _prepare(name: str, *, size: int, items: int, adaptation: str = "finetune") -> Training:
    protocol, settings = _one_epoch()
    labels = np.arange(items) % 2
    split = Split(map_images(items, size), labels, [str(i) for i in labels], "", "")
    job = Job(
        encoder=load_encoder(name, max_size=size),
        data=TaskData(load_tasks()["phantom_chest_xray"], {"train": split}),
        protocol=protocol,
        budget="full",
        draw=0,
        adaptation=adaptation,
    )
    return Training(job, settings)


def _one_epoch() -> tuple[Protocol, FineTuning]:
    """The protocol quick with a full budget of one epoch."""
    protocol = load_protocol("quick")
    assert protocol.finetune is not None
    run = Run(draws=1, epochs=1, batch=_BATCH)
    settings = protocol.finetune.model_copy(update={"budgets": {"full": run}})
    return protocol.model_copy(update={"finetune": settings}), settings


def _normalise(encoder: Encoder, images: NDArray[np.uint8]) -> Tensor:
    """What the network gets, resident on its device in the layout that it prefers."""
    inputs = encoder.normalise(encoder.resample(torch.from_numpy(np.array(images))))
    return inputs.contiguous(memory_format=torch.channels_last)


_FEATURES, _STEP = "the bare forward", "the bare forward, backward and step"
_USUAL = "PIL, torchvision, a loader with 2 workers, fp32"

ROWS = [
    Row(
        "frozen features, resnet18 @64", _FEATURES, 0.95, partial(embed_split, "resnet18", 64, 1024)
    ),
    Row(
        "frozen features, resnet18 @224",
        _FEATURES,
        0.95,
        partial(embed_split, "resnet18", 224, 128),
    ),
    Row(
        "frozen features, vit_small @224",
        _FEATURES,
        0.95,
        partial(embed_split, "vit_small", 224, 128),
    ),
    Row("fine-tuning epoch, resnet18 @28", _STEP, 0.93, partial(train_epoch, 28, 960)),
    Row("fine-tuning epoch, resnet18 @64", _STEP, 0.93, partial(train_epoch, 64, 640)),
    Row("fine-tuning epoch, resnet18 @28", _USUAL, 2, partial(train_epoch_usually, 28, 960)),
    Row("fine-tuning epoch, resnet18 @64", _USUAL, 2, partial(train_epoch_usually, 64, 640)),
    Row("partial, resnet18 @64", "finetune, a step", 2, partial(train_partially, "resnet18", 20)),
    Row("partial, vit_tiny @64", "finetune, a step", 2, partial(train_partially, "vit_tiny", 20)),
]
