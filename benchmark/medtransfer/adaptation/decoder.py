"""The segmentation decoder, the same for every encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medtransfer.encoders.encoder import Encoder, extend

_LEVEL = 64  # channels of each level of the pyramid after its projection
_STEM = 32
_BLOCKS = (384, 192, 96, 48, 24)
# Group norm, not batch norm: batches are small and shots few, and an image's mask must not
# depend on the images beside it.
_GROUPS = 8


class Decoder(nn.Module):
    """A U-Net decoder (Ronneberger et al., MICCAI 2015) over an encoder's pyramid.

    Only the projections of the four levels to 64 channels depend on the encoder. A shallow stem
    adds the image itself at stride 2, so that a coarse patch size alone does not decide.
    """

    def __init__(self, pyramid_channels: list[int], *, image_channels: int, classes: int) -> None:
        """Draw random weights from torch's global generator."""
        from monai.networks.nets.flexible_unet import UNetDecoder  # takes seconds to import

        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, _STEM, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, _STEM),
            nn.ReLU(inplace=True),
            nn.Conv2d(_STEM, _STEM, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, _STEM),
            nn.ReLU(inplace=True),
        )
        self.blocks = UNetDecoder(
            spatial_dims=2,
            encoder_channels=[image_channels, _STEM, *[_LEVEL] * len(pyramid_channels)],
            decoder_channels=_BLOCKS,
            act=("relu", {"inplace": True}),
            norm=("group", {"num_groups": _GROUPS}),
            dropout=0.0,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",  # its gradient is deterministic on a GPU
            align_corners=None,
            is_pad=False,
        )
        # Not zero weights: all 24 rectified features would first act as one more bias, and
        # a short run would never learn a rare class.
        self.head = nn.Conv2d(_BLOCKS[-1], classes, 1)
        # Built last, so that the same seed gives all other layers the same weights for every
        # encoder. The normalisation, with a small epsilon, adapts to features of any scale.
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, _LEVEL, 1, bias=False),
                nn.GroupNorm(_GROUPS, _LEVEL, eps=1e-8),
            )
            for channels in pyramid_channels
        )

    def forward(self, images: Tensor, pyramid: list[Tensor]) -> Tensor:
        """Compute logits (N, classes, H, W).

        Args:
            images: (N, C, H, W), values -1 to 1; 32 divides H and W.
            pyramid: Feature maps of the images at strides 4, 8, 16 and 32.
        """
        levels = [project(level) for project, level in zip(self.projections, pyramid, strict=True)]
        logits: Tensor = self.head(self.blocks([images, self.stem(images), *levels]))
        return logits


class Segmenter(nn.Module):
    """An encoder with a decoder that classifies each pixel.

    Attributes:
        encoder: The evaluated encoder.
        decoder: The decoder, the same for every encoder; it computes in float32.
    """

    def __init__(self, encoder: Encoder, classes: int, *, seed: int) -> None:
        """Take over ``encoder``.

        Args:
            encoder: An encoder with feature maps; parameters that require a gradient are trained.
            classes: Number of classes, background included.
            seed: Seed of the decoder's weights.

        Raises:
            InputError: When the encoder gives no feature maps.
        """
        super().__init__()
        self.encoder = encoder
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            decoder = Decoder(
                encoder.pyramid_channels,
                image_channels=encoder.card.input.channels,
                classes=classes,
            )
        decoder.to(memory_format=torch.channels_last)
        self.decoder = decoder.to(encoder.device)

    @property
    def decoder_parameters(self) -> int:
        """Count the parameters of the decoder."""
        return sum(parameter.numel() for parameter in self.decoder.parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits (N, classes, H, W) of resampled images (N, C, H, W), values 0 to 255."""
        pyramid = self.encoder.pyramid(self.encoder.normalise(pixels))
        height, width = pixels.shape[-2:]
        logits: Tensor = self.decoder(extend(pixels) / 127.5 - 1, pyramid)
        return logits[..., :height, :width]
