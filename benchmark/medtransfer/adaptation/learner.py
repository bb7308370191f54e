"""Encoder-with-head models, and how each is validated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.adaptation.augmentation import augment, augment_pairs
from medtransfer.adaptation.decoder import Segmenter
from medtransfer.adaptation.targets import Targets
from medtransfer.data.split import Split
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.memory import halve_on_oom
from medtransfer.metrics.segmentation import compute_dice
from medtransfer.specs.protocol import Augmentation


class Learner(nn.Module, ABC):
    """An encoder with a head.

    Attributes:
        encoder: The encoder; parameters that require a gradient are trained.
        head: The head, trained at the full learning rate.
        micro_batch: Images per forward pass in training; 0 before training.
    """

    encoder: Encoder
    head: nn.Module
    micro_batch: int = 0

    @abstractmethod
    def truth(self, split: Split, items: NDArray[np.int64]) -> Tensor:
        """Return the targets of ``loss`` for some items of a split."""

    @abstractmethod
    def augment(
        self,
        pixels: Tensor,
        truth: Tensor,
        settings: Augmentation,
        *,
        flip: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Augment images, and transform the truth with them."""

    @abstractmethod
    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""

    @abstractmethod
    def predict(self, split: Split, items: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Predict a split, or some of its items."""

    @abstractmethod
    def score(
        self, predicted: NDArray[Any], split: Split, items: NDArray[np.int64]
    ) -> dict[str, float] | None:
        """Compute the validation metric, then the tie-breaker, both for the record.

        ``None`` if the last step went to NaN.
        """

    @torch.inference_mode()
    def _predict(
        self, finish: Callable[[Tensor], Tensor], split: Split, items: NDArray[np.int64] | None
    ) -> NDArray[Any]:
        """Apply ``finish`` to the logits of a split, or of some of its items."""

        def predict(images: Tensor) -> Tensor:
            return finish(self(self.encoder.resample(images)))

        self.eval()
        batch = self.encoder.batch
        chosen = np.arange(len(split)) if items is None else items
        rows = []
        for start in range(0, len(chosen), batch):
            images = torch.from_numpy(split.images[chosen[start : start + batch]])
            rows.append(halve_on_oom(predict, images).cpu().numpy())
        return np.concatenate(rows)


class Classifier(Learner):
    """An encoder with a linear head that starts at zero, so at uniform probabilities."""

    def __init__(self, encoder: Encoder, classes: int, targets: Targets) -> None:
        """Take over ``encoder``."""
        super().__init__()
        self.encoder, self.targets = encoder, targets
        self.head = nn.Linear(encoder.width, classes, device=encoder.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes) of resampled images (N, C, S, S), values 0 to 255."""
        logits: Tensor = self.head(self.encoder.embed(self.encoder.normalise(pixels)))
        return logits

    def truth(self, split: Split, items: NDArray[np.int64]) -> Tensor:
        """Labels, (n,) or (n, L)."""
        return torch.from_numpy(split.labels[items]).to(self.encoder.device)

    def augment(
        self,
        pixels: Tensor,
        truth: Tensor,
        settings: Augmentation,
        *,
        flip: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Augment the images; labels stay."""
        return augment(pixels, settings, flip=flip, generator=generator), truth

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy."""
        return self.targets.loss(logits, truth)

    def predict(self, split: Split, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Probabilities (N, classes)."""

        def finish(logits: Tensor) -> Tensor:
            return self.targets.probabilities(logits.double()).float()

        return self._predict(finish, split, items)

    def score(
        self, predicted: NDArray[np.float32], split: Split, items: NDArray[np.int64]
    ) -> dict[str, float] | None:
        """AUROC, and minus the log loss."""
        if not np.isfinite(predicted).all():
            return None
        labels = split.labels[items]
        return {
            "validation": self.targets.primary(predicted, labels) or 0.0,
            "validation_log_loss": self.targets.log_loss(predicted, labels),
        }


class PixelClassifier(Learner):
    """An encoder with the decoder of segmentation tasks."""

    def __init__(self, encoder: Encoder, classes: int, *, seed: int) -> None:
        """Wrap ``encoder``; the seed decides the decoder's weights."""
        super().__init__()
        self.segmenter = Segmenter(encoder, classes, seed=seed)
        self.classes = classes

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder of the segmenter."""
        return self.segmenter.encoder

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The decoder of the segmenter."""
        return self.segmenter.decoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, S, S) of resampled images (N, C, S, S), values 0 to 255."""
        logits: Tensor = self.segmenter(pixels)
        return logits

    def truth(self, split: Split, items: NDArray[np.int64]) -> Tensor:
        """Class ids (n, S, S) at the encoder's input size."""
        masks = torch.from_numpy(split.class_maps[items]).to(self.encoder.device)
        size = (self.encoder.size, self.encoder.size)
        resized = functional.interpolate(masks[:, None].float(), size, mode="nearest-exact")
        return resized[:, 0].long()

    def augment(
        self,
        pixels: Tensor,
        truth: Tensor,
        settings: Augmentation,
        *,
        flip: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Augment the images, and transform the masks with them."""
        return augment_pairs(pixels, truth, settings, flip=flip, generator=generator)

    def loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Dice loss over the classes but background, and cross-entropy, with equal weight."""
        from monai.losses.dice import DiceCELoss

        loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        value: Tensor = loss(logits.float(), truth[:, None])
        return value

    def predict(self, split: Split, items: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Class ids (N, H, W) at the size of the masks; non-finite logits give background."""
        size = split.class_maps.shape[1:]

        def finish(logits: Tensor) -> Tensor:
            resized = functional.interpolate(logits.float(), size, mode="bilinear")
            return resized.nan_to_num(nan=-torch.inf).argmax(1).byte()

        return self._predict(finish, split, items)

    def score(
        self, predicted: NDArray[np.uint8], split: Split, items: NDArray[np.int64]
    ) -> dict[str, float] | None:
        """Mean Dice over the foreground classes."""
        if not all(bool(p.isfinite().all()) for p in self.head.parameters()):
            return None
        once = np.ones((1, len(items)))
        dice = float(compute_dice(predicted, split.class_maps[items], once)[0])
        return {"validation": 0.0 if np.isnan(dice) else dice}
