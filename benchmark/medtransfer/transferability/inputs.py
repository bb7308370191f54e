"""Inputs of scores: arrays of one encoder on the training images of one task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from medtransfer.core.seeds import seed_of
from medtransfer.cost.profile import profile_encoder
from medtransfer.data.draws import draw_items
from medtransfer.data.split import Split, TaskData
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.features import frozen_features
from medtransfer.encoders.memory import halve_on_oom
from medtransfer.encoders.source_head import SourceHead
from medtransfer.specs.protocol import ScoreSettings
from medtransfer.transferability.registry import Undefined

Vectors = NDArray[np.float32]


class ScoreInputs:
    """Arrays by the names of `INPUTS`, each computed on first use and then kept.

    Only the training split is used.
    """

    def __init__(
        self,
        encoder: Encoder,
        data: TaskData,
        settings: ScoreSettings,
        *,
        find_head: Callable[[], SourceHead | None] = lambda: None,
    ) -> None:
        """Set encoder, task and settings; ``find_head`` reads the classifier of pre-training."""
        self.encoder, self.data, self.settings = encoder, data, settings
        self._find_head = find_head
        self._views: dict[tuple[int, bool], tuple[Vectors, Vectors]] = {}

    @property
    def train(self) -> Split:
        """The training split."""
        return self.data.splits["train"]

    def get(self, name: str) -> Any:
        """Return an input by its name.

        Raises:
            Undefined: When the encoder or the task has no such input.
        """
        if name == "views":
            return self.views(self.settings.level, pooled=self.settings.pooled)
        return getattr(self, name)

    def images(self, name: str, *, pooled: bool = True) -> int:
        """Return the number of training images of an input."""
        views = self.settings.images if pooled else self.settings.maps
        least = {"views": views, "pixels": self.settings.masks}
        return min(len(self.train), least.get(name, len(self.train)))

    def flops(self, name: str, *, pooled: bool = True) -> int:
        """Return the FLOPs of the encoder's passes for an input, even if it was kept."""
        passes = {"labels": 0, "views": 2}.get(name, 1)
        return passes * self.images(name, pooled=pooled) * self._forward

    @cached_property
    def _forward(self) -> int:
        return profile_encoder(self.encoder).forward

    @cached_property
    def features(self) -> NDArray[np.float64]:
        """Return frozen features, (N, D)."""
        return np.asarray(frozen_features(self.encoder, self.train), np.float64)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Return classes (N,), or labels (N, L)."""
        return self.train.labels

    @cached_property
    def source_probabilities(self) -> NDArray[np.float64]:
        """Return probabilities of the classes of pre-training, (N, S)."""
        head = self._find_head()
        if head is None:
            raise Undefined("the encoder comes without the classifier of its pre-training")
        return np.concatenate(
            [
                head.probabilities(halve_on_oom(self._represent, torch.from_numpy(batch)))
                for batch in self.train.batches(self.encoder.batch)
            ]
        )

    def _represent(self, images: Tensor) -> Tensor:
        encoder = self.encoder
        with torch.inference_mode():
            return encoder.represent(encoder.normalise(encoder.resample(images)))

    def views(self, level: int, *, pooled: bool) -> tuple[Vectors, Vectors]:
        """Compute features of two jittered copies of some images at a level of the pyramid.

        Args:
            level: 0 to 3.
            pooled: Whether features are averaged over space.

        Returns:
            Two arrays (n, C).
        """
        if (level, pooled) not in self._views:
            self._see(level, pooled=pooled)
        return self._views[level, pooled]

    def _see(self, level: int, *, pooled: bool) -> None:
        """Compute the views of a level; if averaged, of all levels at once."""
        if not pooled:
            self._views.clear()  # maps of one level may take a gigabyte
        levels = range(4) if pooled else [level]
        items = self._choose(self.settings.images if pooled else self.settings.maps)
        generator = torch.Generator().manual_seed(seed_of(self.data.card.name, "jitter"))
        draws = torch.rand((2, len(items), 4), generator=generator)

        def see(pixels: Tensor) -> Tensor:
            maps = self._pyramid(pixels)
            seen = [maps[n].mean(dim=(2, 3)) if pooled else maps[n].flatten(1) for n in levels]
            widths[:] = [part.shape[1] for part in seen]
            return torch.cat(seen, dim=1)

        widths: list[int] = []
        copies: tuple[list[Vectors], list[Vectors]] = ([], [])
        for start in range(0, len(items), self.encoder.batch):
            rows = slice(start, start + self.encoder.batch)
            pixels = self.encoder.resample(torch.from_numpy(self.train.images[items[rows]]))
            for copy, draw in zip(copies, draws, strict=True):
                jittered = jitter(pixels, draw[rows], self.settings)
                copy.append(halve_on_oom(see, jittered).cpu().numpy())
        ends = np.cumsum(widths)[:-1]
        parts = zip(*(np.split(np.concatenate(copy), ends, axis=1) for copy in copies), strict=True)
        for number, (first, second) in zip(levels, parts, strict=True):
            self._views[number, pooled] = first, second

    @cached_property
    def pixels(self) -> Sequence[Mapping[int, Sequence[NDArray[np.float64]]]]:
        """Return features of some pixels of some images, by level, class and image."""
        if self.train.masks is None:
            raise Undefined("the task has no masks")
        items = self._choose(self.settings.masks)
        generator = np.random.default_rng(seed_of(self.data.card.name, "pixels"))
        classes = range(len(self.data.card.classes))
        levels: list[dict[int, list[NDArray[np.float64]]]] = [
            {number: [] for number in classes} for _ in range(4)
        ]
        for item in items:
            image = torch.from_numpy(np.array(self.train.images[item : item + 1]))
            maps = self._pyramid(self.encoder.resample(image))
            mask = np.asarray(self.train.masks[item])
            for number in classes:
                places = np.argwhere(mask == number)
                most = min(self.settings.pixels, len(places))
                chosen = places[np.sort(generator.permutation(len(places))[:most])]
                for level, features in zip(levels, maps, strict=True):
                    level[number].append(self._read(features, chosen, mask.shape))
        return levels

    def _read(
        self, features: Tensor, places: NDArray[np.int64], shape: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Sample a map (1, C, h, w) at pixels (m, 2) of a mask, (m, C), bilinearly."""
        if not len(places):
            return np.empty((0, features.shape[1]))
        covered = math.ceil(self.encoder.size / 32) * 32 / self.encoder.size
        # From pixels of the mask to -1 ... 1 over the area of the map.
        relative = (places + 0.5) / np.array(shape) / covered * 2 - 1
        grid = torch.from_numpy(relative[:, ::-1].copy()).float().to(features.device)
        read = functional.grid_sample(
            features, grid[None, None], padding_mode="border", align_corners=False
        )
        return read[0, :, 0].T.double().cpu().numpy()

    def _pyramid(self, pixels: Tensor) -> list[Tensor]:
        encoder = self.encoder
        if not hasattr(encoder.inner, "forward_intermediates"):
            raise Undefined("the encoder gives one vector an image and no feature maps")
        with torch.inference_mode():
            return encoder.pyramid(encoder.normalise(pixels))

    def _choose(self, most: int) -> NDArray[np.int64]:
        """Choose at most ``most`` training images, always the same."""
        train = self.train
        if len(train) <= most:
            return np.arange(len(train))
        none = np.empty((len(train), 0), np.int64)  # by hash alone, without labels
        return draw_items(none, train.ids, shots=most, task=self.data.card.name, draw=0)


_LUMA = (0.2989, 0.587, 0.114)  # torchvision's


def jitter(pixels: Tensor, draws: Tensor, settings: ScoreSettings) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image by a random amount.

    As in torchvision, in this order; the first three for all images at once.

    Args:
        pixels: (N, C, S, S), values 0 to 255.
        draws: Uniform between 0 and 1, (N, 4).
        settings: The amounts.
    """
    spread = 2 * draws.to(pixels.device) - 1
    brightness, contrast, saturation = (
        (1 + amount * draw).view(-1, 1, 1, 1)
        for amount, draw in zip(
            (settings.brightness, settings.contrast, settings.saturation), spread.T, strict=False
        )
    )
    images = (pixels / 255 * brightness).clamp(0, 1)
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    images = (images * contrast + mean * (1 - contrast)).clamp(0, 1)
    if pixels.shape[1] == 3 and not bool((pixels == pixels[:, :1]).all()):
        images = (images * saturation + _grey(images) * (1 - saturation)).clamp(0, 1)
        turns = (settings.hue * spread[:, 3]).tolist()
        pairs = zip(images, turns, strict=True)
        images = torch.stack([transforms.adjust_hue(image, turn) for image, turn in pairs])
    jittered: Tensor = images * 255
    return jittered


def _grey(images: Tensor) -> Tensor:
    """Compute the luma of colour images, (N, 1, S, S)."""
    if images.shape[1] != 3:
        return images
    weights = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    luma: Tensor = (images * weights).sum(dim=1, keepdim=True)
    return luma
