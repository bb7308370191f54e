"""Pre-training objectives: supervised, contrastive and masked.

To add one, write a class here, an entry of ``OBJECTIVES``, and its settings in
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
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.encoders.encoder import Encoder
from medtransfer.pretraining.pool import Pool
from medtransfer.specs.pretraining import Recipe


class Batch(NamedTuple):
    """Images that go through the network together.

    Attributes:
        views: ``Objective.views`` random views of the images, each float (n, C, S, S), values 0
            to 255.
        source: Number of each image's source, (n,).
        labels: For each source, the labels of its images in their order: (m,) or (m, L).
        draws: Uniform random numbers, (``Objective.draws``, n).
        places: Number of each image in the pool, (n,).
    """

    views: tuple[Tensor, ...]
    source: Tensor
    labels: tuple[Tensor, ...]
    draws: Tensor
    places: Tensor


class Objective(nn.Module, ABC):
    """An encoder with a head and a loss; the head is dropped after training.

    Unless the loss compares images, it is a mean over them, so a batch may be split into
    micro-batches and over devices.

    Attributes:
        encoder: The encoder.
        head: The head.
        views: Random views of an image, each one pass through the network.
        draws: Random numbers for an image, besides those of its views.
        whole: Whether the loss depends on all parameters of the encoder.
        prefix: The frozen prefix of the network, if its output is cached.
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
        """The head, if it is a linear classifier of a single source."""
        return None

    def training_flops(self) -> int:
        """Count the FLOPs of training on one image, all views included.

        A cached frozen prefix is not charged: images do not pass through it again.
        """
        return self.views * training_flops(Predictor(self), **self._shape) - self.prefix_flops()

    def prefix_flops(self) -> int:
        """Count the FLOPs of one image's pass through the cached frozen prefix."""
        return 0 if self.prefix is None else forward_flops(self.prefix.beginning(), **self._shape)

    @property
    def _shape(self) -> dict[str, int]:
        return {"channels": self.encoder.card.input.channels, "size": self.encoder.size}

    @abstractmethod
    def predict(self, pixels: Tensor) -> Tensor:
        """Apply encoder and head to images (n, C, S, S), values 0 to 255; one row per image."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Compute the loss."""


class Predictor(nn.Module):
    """An objective's `predict` as a module, for counting FLOPs."""

    def __init__(self, objective: Objective) -> None:
        """Wrap ``objective``."""
        super().__init__()
        self.objective = objective

    def forward(self, pixels: Tensor) -> Tensor:
        """Apply encoder and head to images (n, C, S, S)."""
        return self.objective.predict(pixels)


class Supervised(Objective):
    """A linear head for each source; labels that may occur together are binary questions."""

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: Pool) -> None:
        """Add heads of zeros to ``encoder``: uniform probabilities."""
        super().__init__(encoder)
        self._multilabel = [source.card.kind == "multilabel" for source in pool.sources]
        self._sizes = [len(source.card.classes) for source in pool.sources]
        self.head = nn.Linear(encoder.width, sum(self._sizes), device=encoder.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def classifier(self) -> nn.Module | None:
        """The head of a single source with one class per image."""
        return self.head if self._multilabel == [False] else None

    def predict(self, pixels: Tensor) -> Tensor:
        """Compute logits of all classes of all sources, (n, classes)."""
        logits: Tensor = self.head(self.encoder.represent(self.encoder.normalise(pixels)))
        return logits

    def forward(self, batch: Batch) -> Tensor:
        """Average each image's cross-entropy over its source's classes.

        With several labels per image it is the mean over the known labels.
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
            rows = logits[batch.source == number]
            if not self._multilabel[number]:
                total = total + functional.cross_entropy(rows, labels, reduction="sum")
                continue
            known = labels >= 0
            losses = functional.binary_cross_entropy_with_logits(
                rows, labels.clamp(min=0).to(rows.dtype), reduction="none"
            )
            total = total + ((losses * known).sum(1) / known.sum(1).clamp(min=1)).sum()
        mean: Tensor = total / len(batch.source)
        return mean


class Contrastive(Objective):
    """SimCLR: bring two views of an image together and push other images away.

    Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020.
    """

    views = 2

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: Pool) -> None:
        """Add the projection head to ``encoder``."""
        from lightly.loss import NTXentLoss  # an optional package; takes seconds to import
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
        """Compute projections (n, width)."""
        projected: Tensor = self.head(self.encoder.represent(self.encoder.normalise(pixels)))
        return projected

    def forward(self, batch: Batch) -> Tensor:
        """Compute NT-Xent over the images of all devices."""
        first, second = self.predict(torch.cat(batch.views)).float().chunk(2)
        loss: Tensor = self._loss(first, second)
        return loss


class _Reconstruction(nn.Module):
    """The learned patch of masked squares, and a linear layer from features to pixels."""

    def __init__(self, width: int, channels: int, *, stride: int, patch: int) -> None:
        super().__init__()
        self.token = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(channels, patch, patch), std=0.02)
        )
        self.decoder = nn.Conv2d(width, channels * stride**2, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, g, g) to (n, channels * stride^2, g, g)."""
        decoded: Tensor = self.decoder(features)
        return decoded


class Masked(Objective):
    """SimMIM: reconstruct masked squares from the last feature map by one linear layer.

    Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022. Squares of the
    image are replaced by one learned patch. Behind a patch embedding this is the paper's learned
    token, and it also works for networks without patches.
    """

    whole = False  # the pooling of the last feature map is not used

    def __init__(self, encoder: Encoder, recipe: Recipe, pool: Pool) -> None:
        """Add the reconstruction head to ``encoder``."""
        super().__init__(encoder)
        assert recipe.simmim is not None
        patch, channels = recipe.simmim.patch, encoder.card.input.channels
        if encoder.size % patch or encoder.size == patch:
            raise InputError(
                f"{recipe.name}: simmim.patch: squares of {patch} px do not divide the input of "
                f"{encoder.size} px; choose another --size"
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
                f"input of {encoder.size} px, which simmim needs; choose another --size"
            )
        self._stride = encoder.size // grid
        self.head: _Reconstruction = _Reconstruction(
            width, channels, stride=self._stride, patch=patch
        ).to(encoder.device)

    def predict(self, pixels: Tensor) -> Tensor:
        """Reconstruct images (n, C, S, S) without masking them."""
        return self._reconstruct(self.encoder.normalise(pixels))

    def _reconstruct(self, inputs: Tensor) -> Tensor:
        """Map normalised images to all of their pixels."""
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
        """Average the absolute error over the masked, normalised pixels."""
        inputs = self.encoder.normalise(batch.views[0])
        count, grid = len(inputs), self.encoder.size // self._patch
        chosen = batch.draws.T.argsort(1)[:, : self._masked]
        squares = torch.zeros((count, grid * grid), device=inputs.device).scatter_(1, chosen, 1.0)
        mask = squares.view(count, 1, grid, grid)
        mask = mask.repeat_interleave(self._patch, 2).repeat_interleave(self._patch, 3)
        token = self.head.token.repeat(1, grid, grid)
        pixels = self._reconstruct(torch.lerp(inputs, token.expand_as(inputs), mask))
        errors = ((pixels - inputs).abs() * mask).sum() / inputs.shape[1]
        return errors / mask.sum()


OBJECTIVES: dict[str, type[Supervised | Contrastive | Masked]] = {
    "supervised": Supervised,
    "simclr": Contrastive,
    "simmim": Masked,
}
