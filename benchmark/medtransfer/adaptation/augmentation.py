"""Augmentation of training images, for a whole batch at once on its device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medtransfer.specs.protocol import Augmentation

DRAWS = 6
"""Uniform random numbers that one image takes."""


def augment(
    pixels: Tensor, settings: Augmentation, *, flip: bool, generator: torch.Generator
) -> Tensor:
    """Crop and resize, change brightness and contrast, and flip if the card allows it.

    Args:
        pixels: float, (N, C, S, S), values 0 to 255.
        settings: The protocol's.
        flip: Whether a left-right flip keeps the label.
        generator: A CPU generator, so that every device gets the same random numbers.

    Returns:
        A tensor of the same shape and range.
    """
    draws = torch.rand((DRAWS, len(pixels)), generator=generator)
    return augment_by(pixels, draws, settings, flip=flip)


def augment_by(
    pixels: Tensor, draws: Tensor, settings: Augmentation, *, flip: bool | Tensor
) -> Tensor:
    """Like `augment`, from given random numbers.

    Args:
        pixels: float, (N, C, S, S), values 0 to 255.
        draws: Uniform between 0 and 1, (6, N), on any device.
        settings: The protocol's.
        flip: Whether a left-right flip keeps the label: for all images, or for each, bool (N,).
    """
    grid, light = _place(pixels, draws, settings, flip=flip)
    return _apply(pixels, grid, light)


def augment_pairs(
    pixels: Tensor,
    masks: Tensor,
    settings: Augmentation,
    *,
    flip: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Like `augment`, and transform class ids (N, S, S) with their images."""
    draws = torch.rand((DRAWS, len(pixels)), generator=generator)
    grid, light = _place(pixels, draws, settings, flip=flip)
    moved = functional.grid_sample(
        masks[:, None].to(pixels.dtype),
        grid,
        mode="nearest",
        padding_mode="border",
        align_corners=False,
    )
    return _apply(pixels, grid, light), moved[:, 0].to(masks.dtype)


def _place(
    pixels: Tensor, draws: Tensor, settings: Augmentation, *, flip: bool | Tensor
) -> tuple[Tensor, Tensor]:
    """Draw sampling grids (N, S, S, 2) and factors of brightness and contrast (2, N, 1, 1, 1)."""
    count = len(pixels)
    draws = draws.to(pixels.device)
    # A square crop with a share of the area, anywhere inside the image.
    side = (settings.crop + (1 - settings.crop) * draws[0]).sqrt()
    centre = (1 - side) * (2 * draws[1:3] - 1)
    allowed = torch.as_tensor(flip, device=pixels.device)
    mirrored = torch.where((draws[3] < 0.5) & allowed, -1.0, 1.0)
    zero = torch.zeros_like(side)
    transform = torch.stack(
        [
            torch.stack([side * mirrored, zero, centre[0]], 1),
            torch.stack([zero, side, centre[1]], 1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(transform, list(pixels.shape), align_corners=False)
    return grid, 1 + settings.jitter * (2 * draws[4:6].view(2, count, 1, 1, 1) - 1)


def _apply(pixels: Tensor, grid: Tensor, light: Tensor) -> Tensor:
    """Crop and resize, then change brightness and contrast."""
    cropped = functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    brightness, contrast = light
    mean = cropped.mean(dim=(1, 2, 3), keepdim=True)
    changed: Tensor = (cropped - mean) * contrast + mean * brightness
    return changed.clamp_(0, 255)
