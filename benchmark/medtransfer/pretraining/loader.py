"""Load the images of a step, with their random views."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.core.seeds import seed_of
from medtransfer.pretraining.objectives import Batch, Objective
from medtransfer.pretraining.pool import Pool
from medtransfer.pretraining.views import VIEW_DRAWS, make_view
from medtransfer.specs.pretraining import Views


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
    """Load a device's share of the images of a step, in micro-batches.

    All random numbers are drawn for the whole step, so that they do not depend on the number of
    devices.

    Args:
        pool: The images.
        objective: Declares the views and random numbers that it needs of an image.
        step: The step, counted from 0.
        settings: Settings of the views; ``None`` leaves the images unchanged.
        parts: Number of micro-batches.
        device: Number of this device.
        devices: Number of devices.
    """
    places = pool.batch(step)
    generator = torch.Generator().manual_seed(seed_of("pretraining", pool.seed, "views", step))
    numbers = objective.views * VIEW_DRAWS + objective.draws
    draws = torch.rand((numbers, len(places)), generator=generator)
    share = np.arange(device, len(places), devices)
    return [
        _load(pool, objective, settings, places[chosen], draws[:, torch.from_numpy(chosen)])
        for chosen in np.array_split(share, parts)
    ]


def _load(
    pool: Pool,
    objective: Objective,
    settings: Views | None,
    places: NDArray[np.int64],
    draws: Tensor,
) -> Batch:
    """Read images of the pool and compute their views."""
    encoder = objective.encoder
    order = np.argsort(places, kind="stable")  # source after source, in the order of the files
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
