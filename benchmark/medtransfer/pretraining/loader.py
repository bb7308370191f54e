"""Images of a training step, as random views."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.adaptation.augmentation import DRAWS, augment
from medtransfer.core.seeds import seed_of
from medtransfer.pretraining.objectives import Batch, Objective
from medtransfer.pretraining.pool import Pool
from medtransfer.specs.pretraining import Views

VIEW_DRAWS = DRAWS + 3
"""Uniform random numbers for one view."""

# From RGB to luma and two colour axes (YIQ, ITU-R BT.470), in which a hue is an angle.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def load_step(
    pool: Pool,
    objective: Objective,
    step: int,
    settings: Views | None,
    *,
    parts: int = 1,
    device: int = 0,
    devices: int = 1,
) -> list[Batch]:
    """Load a device's share of a step's images in micro-batches.

    Random numbers are drawn for the whole step, so they do not depend on how it is split.
    """
    places = pool.batch(step)
    generator = torch.Generator().manual_seed(seed_of("pretraining", pool.seed, "views", step))
    numbers = objective.views * VIEW_DRAWS + objective.draws
    draws = torch.rand((numbers, len(places)), generator=generator)
    share = np.arange(device, len(places), devices)
    return [
        _load(pool, objective, settings, places[part], draws[:, torch.from_numpy(part)])
        for part in np.array_split(share, parts)
    ]


def _load(
    pool: Pool,
    objective: Objective,
    settings: Views | None,
    places: NDArray[np.int64],
    draws: Tensor,
) -> Batch:
    """Read images of the pool and make their views."""
    encoder = objective.encoder
    order = np.argsort(places, kind="stable")  # by source, in the order of the files
    places, draws = places[order], draws[:, torch.from_numpy(order)].to(encoder.device)
    number = np.searchsorted(pool.starts, places, side="right") - 1
    pixels, labels = [], []
    for i, source in enumerate(pool.sources):
        items = source.items[places[number == i] - pool.starts[i]]
        labels.append(torch.from_numpy(source.split.labels[items]).to(encoder.device))
        if len(items):
            pixels.append(encoder.resample(torch.from_numpy(source.split.images[items])))
    images = torch.cat(pixels)
    flips = np.array([source.card.flip for source in pool.sources])
    flip = torch.from_numpy(flips[number]).to(encoder.device)
    views = [images] * objective.views
    if settings is not None:
        view_draws = draws[: objective.views * VIEW_DRAWS].chunk(objective.views)
        views = [make_view(images, numbers, settings, flip=flip) for numbers in view_draws]
    return Batch(
        views=tuple(views),
        source=torch.from_numpy(number).to(encoder.device),
        labels=tuple(labels),
        draws=draws[objective.views * VIEW_DRAWS :],
        places=torch.from_numpy(places),
    )


def make_view(pixels: Tensor, draws: Tensor, settings: Views, *, flip: Tensor) -> Tensor:
    """Crop, flip, change brightness and contrast, and then colour.

    Args:
        pixels: float, (N, C, S, S), values 0 to 255.
        draws: Uniform between 0 and 1, (VIEW_DRAWS, N).
        settings: The recipe's settings.
        flip: Mask of the images that may be flipped, bool (N,).
    """
    augmented = augment(pixels, draws[:DRAWS], settings, flip=flip)
    colour = settings.saturation or settings.hue or settings.grey
    if pixels.shape[1] != 3 or not colour:
        return augmented
    matrices = _colour_matrices(draws[DRAWS:].to(pixels.device), settings)
    return torch.einsum("nij,njhw->nihw", matrices, augmented).clamp_(0, 255)


def _colour_matrices(draws: Tensor, settings: Views) -> Tensor:
    """Draw the colour matrix (N, 3, 3) of each image; grey stays grey."""
    saturation = 1 + settings.saturation * (2 * draws[0] - 1)
    saturation = torch.where(draws[2] < settings.grey, 0.0, saturation)
    angle = 2 * math.pi * settings.hue * (2 * draws[1] - 1)
    rotation = torch.zeros((len(angle), 3, 3), device=draws.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = saturation * angle.cos()
    rotation[:, 2, 1] = saturation * angle.sin()
    rotation[:, 1, 2] = -rotation[:, 2, 1]
    to_yiq = torch.tensor(_YIQ, device=draws.device)
    matrices: Tensor = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return matrices
