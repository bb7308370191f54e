"""Objectives: supervised, SimCLR and SimMIM.

To add one, add a class here, an entry to ``OBJECTIVES`` and its settings to
`medtransfer.specs.pretraining.Recipe`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.acceleration.prefix import KeptPrefix
from medtransfer.core.errors import InputError
from medtransfer.encoders.encoder import Encoder
from medtransfer.pretraining.pool import Pool
from medtransfer.specs.pretraining import Recipe


class Batch(NamedTuple):
    """Images of a step, or of a micro-batch.

    Attributes:
        views: Random views of the images, ``Objective.views`` of them, each float (n, C, S, S),
            values 0 to 255.
        source: Number of each image's source, (n,).
        labels: Labels of each source's images, in the order of the images: (m,) or (m, L).
        draws: Uniform random numbers of each image, ``Objective.draws`` of them, (draws, n).
        places: Number of each image in the pool, (n,).
    """

    views: tuple[Tensor, ...]
    source: Tensor
    labels: tuple[Tensor, ...]
    draws: Tensor
    places: Tensor


class Objective(nn.Module, ABC):
    """An encoder with a head for pre-training, which is dropped at the end.

    The loss is a mean over images unless it compares images with each other, so that a batch
    may be split into micro-batches and over devices.

    Attributes:
        encoder: The encoder, which is kept.
        head: The head, which is dropped.
        views: Number of random views of an image; each is one pass through the network.
        draws: Number of random numbers per image, besides those of its views.
        whole: Whether all of the encoder takes part in the loss.
        prefix: The frozen first part of the network, where its output is kept.
    """

    views = 1
    draws = 0
    whole = True
    prefix: KeptPrefix | None = None
    head: nn.Module

    def __init__(self, encoder: Encoder) -> None:
        """Take over ``encoder``."""
        super().__init__()
        self.encoder = encoder

    @property
    def classifier(self) -> nn.Module | None:
        """The head, where it is a linear classifier of a single source."""
        return None

    @abstractmethod
    def predict(self, pixels: Tensor) -> Tensor:
        """Apply encoder and head to images (n, C, S, S), values 0 to 255; one row an image."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Compute the loss."""


class Supervised(Objective):
    """Linear classifier for each source; multi-label sources use binary cross-entropy."""

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: Pool) -> None:
        """Wrap ``encoder``; the heads start at zero, so at uniform probabilities."""
        super().__init__(encoder)
        self._multilabel = [source.card.kind == "multilabel" for source in pool.sources]
        self._sizes = [len(source.card.classes) for source in pool.sources]
        self.head = nn.Linear(encoder.width, sum(self._sizes), device=encoder.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def classifier(self) -> nn.Module | None:
        """The head of a single source whose images have one class each."""
        return self.head if self._multilabel == [False] else None

    def predict(self, pixels: Tensor) -> Tensor:
        """Logits of all classes of all sources, (n, classes)."""
        logits: Tensor = self.head(self.encoder.represent(self.encoder.normalise(pixels)))
        return logits

    def forward(self, batch: Batch) -> Tensor:
        """Average the cross-entropy of each image over the classes of its source.

        For a multi-label image it is the mean over its known labels.
        """
        inputs = self.encoder.normalise(batch.views[0])
        if self.prefix is None:
            vectors = self.encoder.represent(inputs)
        else:
            with self.encoder.autocast():
                vectors = self.prefix(inputs, batch.places).float()
        heads = self.head(vectors).split(self._sizes, dim=1)
        total = heads[0].new_zeros(())
        for number, (logits, labels) in enumerate(zip(heads, batch.labels, strict=True)):
            source_logits = logits[batch.source == number]
            if not self._multilabel[number]:
                total = total + functional.cross_entropy(source_logits, labels, reduction="sum")
                continue
            known = labels >= 0
            losses = functional.binary_cross_entropy_with_logits(
                source_logits, labels.clamp(min=0).to(source_logits.dtype), reduction="none"
            )
            total = total + ((losses * known).sum(1) / known.sum(1).clamp(min=1)).sum()
        mean: Tensor = total / len(batch.source)
        return mean


class Contrastive(Objective):
    """SimCLR: two views of an image are similar, views of other images are not.

    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020.
    """

    views = 2

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: Pool) -> None:
        """Take over ``encoder``."""
        from lightly.loss import NTXentLoss  # an extra, which takes seconds to import
        from lightly.models.modules.heads import SimCLRProjectionHead

        super().__init__(encoder)
        assert recipe.simclr is not None
        width = encoder.width
        head = SimCLRProjectionHead(width, width, recipe.simclr.width)
        self.head = head.to(encoder.device)
        self._loss = NTXentLoss(
            temperature=recipe.simclr.temperature,
            gather_distributed=torch.distributed.is_initialized(),
        )

    def predict(self, pixels: Tensor) -> Tensor:
        """Projections (n, width)."""
        projected: Tensor = self.head(self.encoder.represent(self.encoder.normalise(pixels)))
        return projected

    def forward(self, batch: Batch) -> Tensor:
        """Compute NT-Xent over the images of all devices; the views share one forward pass."""
        first, second = self.predict(torch.cat(batch.views)).float().chunk(2)
        loss: Tensor = self._loss(first, second)
        return loss


class _Reconstruction(nn.Module):
    """Learned mask token, and a linear layer from features to pixels."""

    def __init__(self, width: int, channels: int, *, stride: int, patch: int) -> None:
        super().__init__()
        self.token = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(channels, patch, patch), std=0.02)
        )
        self.decoder = nn.Conv2d(width, channels * stride**2, 1)

    def forward(self, features: Tensor) -> Tensor:
        """From (n, width, g, g) to (n, channels * stride^2, g, g)."""
        decoded: Tensor = self.decoder(features)
        return decoded


class Masked(Objective):
    """SimMIM: predict the pixels of masked squares by one linear layer on the last feature map.

    Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022. The squares are
    masked in the image, by one learned patch. After a patch embedding it is the learned token
    of the paper; networks without patches accept it as well.
    """

    whole = False  # the pooling of the last feature map takes no part

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: Pool) -> None:
        """Take over ``encoder``.

        Raises:
            InputError: When the squares do not fit the image.
        """
        super().__init__(encoder)
        assert recipe.simmim is not None
        patch, channels = recipe.simmim.patch, encoder.card.input.channels
        if encoder.size % patch or encoder.size == patch:
            raise InputError(
                f"{recipe.name}: simmim.patch: squares of {patch} px do not divide the input of "
                f"{encoder.size} px; another --size is needed"
            )
        self._patch = patch
        squares = (encoder.size // patch) ** 2
        self._masked = min(max(1, round(recipe.simmim.share * squares)), squares - 1)
        self.draws = squares
        with torch.no_grad():
            last = self._last_map(torch.zeros(1, channels, encoder.size, encoder.size))
        width, grid = last.shape[1:3]
        if encoder.size % grid:
            raise InputError(
                f"{encoder.card.name}: its last feature map of {grid} x {grid} does not divide the "
                f"input of {encoder.size} px, which simmim needs; another --size is needed"
            )
        self._stride = encoder.size // grid
        self.head: _Reconstruction = _Reconstruction(
            width, channels, stride=self._stride, patch=patch
        ).to(encoder.device)

    def predict(self, pixels: Tensor) -> Tensor:
        """Reconstruct the pixels of unmasked images, (n, C, S, S)."""
        return self._reconstruct(self.encoder.normalise(pixels))

    def _reconstruct(self, inputs: Tensor) -> Tensor:
        """Reconstruct all pixels of normalised images."""
        decoded = self.head(self._last_map(inputs))
        return functional.pixel_shuffle(decoded, self._stride)

    def _last_map(self, inputs: Tensor) -> Tensor:
        network: Any = self.encoder.network
        with self.encoder.autocast():
            maps = network.forward_intermediates(
                inputs.to(self.encoder.device).contiguous(memory_format=torch.channels_last)
            )
        last: Tensor = maps[-1].float()
        return last

    def forward(self, batch: Batch) -> Tensor:
        """Mean absolute difference of the masked, normalised pixels."""
        inputs = self.encoder.normalise(batch.views[0])
        count, grid = len(inputs), self.encoder.size // self._patch
        chosen = batch.draws.T.argsort(1)[:, : self._masked]
        squares = torch.zeros((count, grid * grid), device=inputs.device).scatter_(1, chosen, 1.0)
        mask = squares.view(count, 1, grid, grid)
        mask = mask.repeat_interleave(self._patch, 2).repeat_interleave(self._patch, 3)
        token = self.head.token.repeat(1, grid, grid)
        reconstructed = self._reconstruct(torch.lerp(inputs, token.expand_as(inputs), mask))
        differences = ((reconstructed - inputs).abs() * mask).sum() / inputs.shape[1]
        return differences / mask.sum()


OBJECTIVES: dict[str, type[Supervised | Contrastive | Masked]] = {
    "supervised": Supervised,
    "simclr": Contrastive,
    "simmim": Masked,
}
