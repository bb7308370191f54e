"""Random views of a batch of images, on its device, from given random numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medtransfer.adaptation.augmentation import DRAWS, augment_by
from medtransfer.specs.pretraining import Views

VIEW_DRAWS = DRAWS + 3
"""Uniform random numbers that one view takes."""

# From RGB to luma and two colour axes (YIQ, ITU-R BT.470), in which a hue is an angle.
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def make_view(pixels: Tensor, draws: Tensor, settings: Views, *, flip: Tensor) -> Tensor:
    """Crop, flip, and change brightness, contrast and colour.

    Args:
        pixels: float, (N, C, S, S), values 0 to 255.
        draws: Uniform between 0 and 1, (VIEW_DRAWS, N).
        settings: Settings of the recipe.
        flip: Whether each image may be flipped, bool (N,).

    Returns:
        A tensor of the same shape and range.
    """
    changed = augment_by(pixels, draws[:DRAWS], settings, flip=flip)
    colour = settings.saturation or settings.hue or settings.grey
    if pixels.shape[1] != 3 or not colour:
        return changed
    matrices = _colour_matrices(draws[DRAWS:].to(pixels.device), settings)
    return torch.einsum("nij,njhw->nihw", matrices, changed).clamp_(0, 255)


def _colour_matrices(draws: Tensor, settings: Views) -> Tensor:
    """Draw the colour matrix (N, 3, 3) of each image; grey stays grey."""
    saturation = 1 + settings.saturation * (2 * draws[0] - 1)
    saturation = torch.where(draws[2] < settings.grey, 0.0, saturation)
    angle = 2 * math.pi * settings.hue * (2 * draws[1] - 1)
    turn = torch.zeros((len(angle), 3, 3), device=draws.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
    turn[:, 2, 1] = saturation * angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    to_yiq = torch.tensor(_YIQ, device=draws.device)
    matrices: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return matrices
