"""Encoder-with-head models, and how each is validated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.adaptation.augmentation import augment, augment_pairs
from medtransfer.adaptation.decoder import Decoder
from medtransfer.adaptation.targets import Targets
from medtransfer.data.split import Split
from medtransfer.encoders.encoder import Encoder, extend
from medtransfer.encoders.memory import halve_on_oom
from medtransfer.metrics import SEGMENTATION
from medtransfer.specs.protocol import Augmentation


class Learner(nn.Module, ABC):
    """An encoder with a head.

    Attributes:
        encoder: Trained where its parameters require a gradient.
        head: Trained at the full learning rate.
        micro_batch: Images of a training step that go through at a time; 0 before training.
    """

    micro_batch: int = 0

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        """Combine an encoder with a head."""
        super().__init__()
        self.encoder, self.head = encoder, head

    @abstractmethod
    def truth(self, split: Split, items: NDArray[np.int64]) -> Tensor:
        """Return the targets of ``loss`` for some items of a split."""

    def augment(
        self, pixels: Tensor, truth: Tensor, draws: Tensor, settings: Augmentation, *, flip: bool
    ) -> tuple[Tensor, Tensor]:
        """Augment images by random numbers (DRAWS, N), and masks with them."""
        return augment(pixels, draws, settings, flip=flip), truth

    @abstractmethod
    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""

    @abstractmethod
    def finish(self, logits: Tensor, split: Split) -> Tensor:
        """Turn logits of a split's images into predictions."""

    @torch.inference_mode()
    def predict(self, split: Split, items: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Predict a split, or some of its items."""

        def predict(images: Tensor) -> Tensor:
            return self.finish(self(self.encoder.resample(images)), split)

        self.eval()
        batch = self.encoder.batch
        chosen = np.arange(len(split)) if items is None else items
        rows = []
        for start in range(0, len(chosen), batch):
            images = torch.from_numpy(split.images[chosen[start : start + batch]])
            rows.append(halve_on_oom(predict, images).cpu().numpy())
        return np.concatenate(rows)

    @abstractmethod
    def validate(self, split: Split, items: NDArray[np.int64]) -> dict[str, float] | None:
        """Score predictions: the validation metric, then a tie-breaker, both for the record.

        ``None`` if the weights or predictions are not finite.
        """


class Classifier(Learner):
    """A linear head, initialised to zero: uniform probabilities."""

    def __init__(self, encoder: Encoder, classes: int, targets: Targets) -> None:
        """Add a linear head to ``encoder``."""
        super().__init__(encoder, nn.Linear(encoder.width, classes, device=encoder.device))
        self.targets = targets
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (N, classes) of resampled images (N, C, S, S), values 0 to 255."""
        logits: Tensor = self.head(self.encoder.embed(self.encoder.normalise(pixels)))
        return logits

    def truth(self, split: Split, items: NDArray[np.int64]) -> Tensor:
        """Return labels, (n,) or (n, L)."""
        return torch.from_numpy(split.labels[items]).to(self.encoder.device)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Compute the cross-entropy."""
        return self.targets.loss(logits, truth)

    def finish(self, logits: Tensor, split: Split) -> Tensor:
        """Compute probabilities (N, classes)."""
        return self.targets.probabilities(logits.double()).float()

    def validate(self, split: Split, items: NDArray[np.int64]) -> dict[str, float] | None:
        """Compute AUROC and log loss."""
        predicted = self.predict(split, items)
        if not np.isfinite(predicted).all():
            return None
        labels = split.labels[items]
        return {
            "validation": self.targets.primary(predicted, labels) or 0.0,
            "validation_log_loss": self.targets.log_loss(predicted, labels),
        }


class PixelClassifier(Learner):
    """A decoder that classifies every pixel; it computes in float32."""

    def __init__(self, encoder: Encoder, classes: int, *, seed: int) -> None:
        """Add a decoder to ``encoder``.

        Args:
            encoder: Encoder with feature maps.
            classes: Number of classes, including background.
            seed: Seed of the decoder's weights.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            decoder = Decoder(
                encoder.pyramid_channels,
                image_channels=encoder.card.input.channels,
                classes=classes,
            )
        decoder.to(memory_format=torch.channels_last)
        super().__init__(encoder, decoder.to(encoder.device))

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (N, classes, H, W) of resampled images (N, C, H, W), values 0 to 255."""
        pyramid = self.encoder.pyramid(self.encoder.normalise(pixels))
        height, width = pixels.shape[-2:]
        logits: Tensor = self.head(extend(pixels) / 127.5 - 1, pyramid)
        return logits[..., :height, :width]

    def truth(self, split: Split, items: NDArray[np.int64]) -> Tensor:
        """Return class ids (n, S, S) at the encoder's input size."""
        masks = torch.from_numpy(split.class_maps[items]).to(self.encoder.device)
        size = (self.encoder.size, self.encoder.size)
        resized = functional.interpolate(masks[:, None].float(), size, mode="nearest-exact")
        return resized[:, 0].long()

    def augment(
        self, pixels: Tensor, truth: Tensor, draws: Tensor, settings: Augmentation, *, flip: bool
    ) -> tuple[Tensor, Tensor]:
        """Augment images by random numbers (DRAWS, N), and move their masks with them."""
        return augment_pairs(pixels, truth, draws, settings, flip=flip)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Add the Dice loss of the foreground classes and the cross-entropy."""
        from monai.losses.dice import DiceCELoss

        loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        value: Tensor = loss(logits.float(), truth[:, None])
        return value

    def finish(self, logits: Tensor, split: Split) -> Tensor:
        """Choose class ids (N, H, W) at the masks' size; logits that are NaN never win."""
        size = split.class_maps.shape[1:]
        resized = functional.interpolate(logits.float(), size, mode="bilinear")
        return resized.nan_to_num(nan=-torch.inf).argmax(1).byte()

    def validate(self, split: Split, items: NDArray[np.int64]) -> dict[str, float] | None:
        """Average Dice over the foreground classes."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.head.parameters()):
            return None
        predicted = self.predict(split, items)
        once = np.ones((1, len(items)))
        dice = SEGMENTATION["dice"].function(predicted, split.class_maps[items], once).item()
        return {"validation": 0.0 if np.isnan(dice) else dice}
