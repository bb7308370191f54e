"""Input and result of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medtransfer.adaptation.targets import TARGETS, Targets
from medtransfer.data.draws import draw_items
from medtransfer.data.labels import count_labels
from medtransfer.data.split import Split, TaskData
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.features import frozen_features
from medtransfer.specs.protocol import Protocol, Training, shots
from medtransfer.specs.record import Cell


@dataclass(frozen=True)
class Job:
    """Inputs of one cell.

    Attributes:
        encoder: The encoder, on its device, in eval mode. Never changed by an adaptation.
        data: The task.
        protocol: The protocol.
        budget: ``1-shot`` ... ``full``.
        draw: Number of the draw.
        previous: Hyperparameters selected by draw 0 of the same budget; empty for draw 0.
        adaptation: Name of the adaptation, for those that share code.
    """

    encoder: Encoder
    data: TaskData
    protocol: Protocol
    budget: str
    draw: int
    previous: dict[str, Any] = field(default_factory=dict)
    adaptation: str = "finetune"

    @property
    def shots(self) -> int | None:
        """Items per class; ``None`` is the whole training split."""
        return shots(self.budget)

    @property
    def classes(self) -> int:
        """Number of classes, or of labels."""
        return len(self.data.card.classes)

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """Indices of this draw's items in the training split."""
        train = self.data.splits["train"]
        return draw_items(
            train.labels,
            train.ids,
            shots=self.shots,
            task=self.data.card.name,
            draw=self.draw,
            patients=train.patients,
        )

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Labels of this draw's items, (n,) or (n, L)."""
        return self.data.splits["train"].labels[self.items]

    @property
    def counts(self) -> list[int]:
        """Count training items per class, or positives per label; for masks the images.

        A class may have fewer than the shots; a label that occurs with others may have more.
        """
        if self.data.card.kind == "segmentation":
            return [len(self.items)]
        return count_labels(self.labels, self.classes)

    @cached_property
    def training(self) -> Training:
        """Settings and learning rates of an adaptation that trains by gradient."""
        card = self.data.card
        cell = Cell(card.name, self.budget, self.adaptation, self.draw)
        return self.protocol.training(
            self.adaptation,
            card.kind,
            self.budget,
            random=self.encoder.card.pretraining.objective == "none",
            reused=cell.reused_rate(self.previous),
        )

    @property
    def targets(self) -> Targets:
        """Loss, probabilities and scores of the task's kind."""
        return TARGETS[self.data.card.kind]

    def features(self, split: Split) -> torch.Tensor:
        """Frozen features (N, D) of a split, on the encoder's device."""
        return self._load(split, np.arange(len(split)))

    def shot_features(self) -> torch.Tensor:
        """Frozen features (n, D) of this draw's items."""
        return self._load(self.data.splits["train"], self.items)

    def _load(self, split: Split, items: NDArray[np.int64]) -> torch.Tensor:
        features = frozen_features(self.encoder, split)
        chosen = np.array(features) if len(items) == len(split) else features[items]
        return torch.from_numpy(chosen).to(self.encoder.device)


@dataclass(frozen=True)
class Outcome:
    """Result of one cell.

    Attributes:
        predictions: Of every test split, probabilities (N, C) or class ids (N, H, W); empty when
            diverged.
        selected: Selected hyperparameters and their scores.
        images_seen: Training images, selection included; counted as they are used.
        trainable_parameters: Number of parameters that were trained.
        parameters: Number of parameters of encoder and head.
        diverged: Whether training went to NaN at every learning rate.
        micro_batch: Images per forward pass in training; 0 without training.
    """

    predictions: Mapping[str, NDArray[Any]]
    selected: dict[str, Any]
    images_seen: int
    trainable_parameters: int
    parameters: int
    diverged: bool = False
    micro_batch: int = 0
