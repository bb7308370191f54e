"""Features without learning, which shame many networks: pixels, HOG, random convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medtransfer.encoders.registry import built_by, register
from medtransfer.specs.encoder import RANDOM_WEIGHTS, EncoderCard, Input

if TYPE_CHECKING:
    from torch import Tensor, nn


def build_pixels() -> nn.Module:
    """The image itself as a vector."""
    from torch import nn

    return nn.Flatten()


def build_hog() -> nn.Module:
    """Histograms of oriented gradients (Dalal and Triggs 2005), scikit-image's defaults."""
    import numpy as np
    import torch
    from skimage.feature import hog
    from torch import nn

    class Hog(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            rows = [hog(image[0], channel_axis=None) for image in images.cpu().numpy()]
            return torch.from_numpy(np.stack(rows)).float().to(images.device)

    return Hog()


def build_random_convolutions() -> nn.Module:
    """Random zero-mean filters at two scales, rectified both ways, pooled over a 3 x 3 grid.

    In the spirit of Saxe et al. (2011) and Coates and Ng (2011): the architecture alone, without
    any learning, is already a good feature extractor.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    class RandomConvolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for dilation in (1, 3):
                filters = torch.randn(64, 3, 5, 5)
                filters -= filters.mean(dim=(1, 2, 3), keepdim=True)
                filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                self.register_buffer(f"filters{dilation}", filters)

        def forward(self, images: Tensor) -> Tensor:
            pooled = []
            for dilation in (1, 3):
                filters = self.get_buffer(f"filters{dilation}")
                response = functional.conv2d(images, filters, dilation=dilation)
                mean = functional.adaptive_avg_pool2d(response, 3)
                positive = functional.adaptive_avg_pool2d(response.relu_(), 3)
                # relu(-r) = relu(r) - r, and averaging is linear.
                pooled += [positive.flatten(1), (positive - mean).flatten(1)]
            return torch.cat(pooled, dim=1)

    return RandomConvolutions()


for _name, _title, _builder, _input in (
    ("pixels", "Raw pixels at 32 px", build_pixels, Input(size=32)),
    (
        "hog",
        "Histograms of oriented gradients at 64 px",
        build_hog,
        Input(size=64, channels=1, mean=[0.0], std=[1.0]),
    ),
    (
        "random-convolutions",
        "Random convolution features at 64 px",
        build_random_convolutions,
        Input(size=64, mean=[0.5] * 3, std=[0.25] * 3),
    ),
):
    register(
        EncoderCard(
            name=_name,
            title=_title,
            architecture=built_by(_builder),
            input=_input,
            pretraining=RANDOM_WEIGHTS,
        ),
        _builder,
    )
