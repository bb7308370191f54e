"""Segmentation on small images: discs, and an encoder with feature maps."""

from __future__ import annotations

from typing import Any

import numpy as np

MAPS = """
import torch
from medtransfer import EncoderCard, register
from medtransfer.encoders.registry import built_by

class Maps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Conv2d(3 if s == 4 else 8, 8, k, k), torch.nn.ReLU())
            for s, k in ((4, 4), (8, 2), (16, 2), (32, 2))
        )

    def forward_intermediates(self, images):
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps

    def forward(self, images):
        return self.forward_intermediates(images)[-1].mean(dim=(2, 3))

def build():
    return Maps()

register(EncoderCard(name="maps", architecture=built_by(build), input={"size": 32}), build)
"""


def draw_discs(items: int, *, seed: int) -> tuple[Any, Any]:
    """Noise with a bright disc and a dark one, and their masks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images, masks = rng.normal(110, 20, (items, 32, 32)), np.zeros((items, 32, 32), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        for label, change in ((1, 70), (2, -70)):
            row, column = rng.integers(7, 25, 2)
            disc = (x - column) ** 2 + (y - row) ** 2 < 30
            mask[disc] = label
            image[disc] = image[disc] * 0 + 110 + change
    return images.clip(0, 255).astype(np.uint8), masks
