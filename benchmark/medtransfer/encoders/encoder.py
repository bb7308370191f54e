"""Encoder: from uint8 images to embeddings, preprocessing included."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.core.errors import InputError
from medtransfer.encoders.timm_networks import PYRAMID_STRIDES, TimmNetwork
from medtransfer.specs.encoder import EncoderCard


def resolve_device(name: str) -> torch.device:
    """Resolve ``auto`` (a GPU if available), ``cpu``, ``cuda`` or ``cuda:N`` to a device.

    Raises:
        InputError: For a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: '{name}' is not supported; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: cuda not available: this machine has no usable GPU")
    return device


def supports_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16 matrices natively; emulation is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


class Encoder(nn.Module):
    """Network with its card, input size and preprocessing.

    Attributes:
        card: The encoder's card.
        identity: SHA-256 of all that decides its output.
        network: From normalised images (N, channels, size, size) to vectors (N, D).
        size: Input height and width in pixels: the card's, bounded by the protocol.
        width: D, read from the network's output.
        notes: Notes for the user about loading, one line each.
        frozen_modules: Parts of the network that stay in eval mode, because they are frozen.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: EncoderCard, network: nn.Module, *, identity: str, size: int) -> None:
        """Wrap a network with loaded weights; `check_encoder` then sets the width."""
        super().__init__()
        self.card = card
        self.network = network
        self.identity = identity
        self.size = size
        self.width = 0
        self.notes: tuple[str, ...] = ()
        self.frozen_modules: list[nn.Module] = []
        shape = (1, -1, 1, 1)
        self.register_buffer("mean", torch.tensor(card.input.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(card.input.std).view(shape), persistent=False)

    @property
    def inner(self) -> nn.Module:
        """The network without its wrapper; timm's layer groups use the names inside it."""
        return self.network.network if isinstance(self.network, TimmNetwork) else self.network

    @property
    def device(self) -> torch.device:
        """Device on which the encoder computes."""
        return self.mean.device

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the loaded weights; the identity hashes only their file."""
        hasher = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            hasher.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hasher.hexdigest()

    @property
    def precision(self) -> str:
        """``bf16`` if the hardware supports it and the network has weights, else ``fp32``."""
        return "bf16" if self._weighted and supports_bf16(self.device) else "fp32"

    @property
    def _weighted(self) -> bool:
        return any(True for _ in self.network.parameters())

    @property
    def batch(self) -> int:
        """Images per forward pass without training.

        On a processor, as many as the cache holds feature maps of, 10 of 224 px: that takes three
        quarters of the time of batches of 128.
        """
        return 128 if self.device.type == "cuda" else max(4, min(128, 2**19 // self.size**2))

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which the network computes at the recorded precision."""
        if self.device.type == "meta":  # used to count FLOPs; torch has no autocast for it
            return nullcontext()
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def train(self, mode: bool = True) -> Encoder:
        """Set train or eval mode; frozen modules, batch norm included, stay in eval mode."""
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self

    def duplicate(self) -> Encoder:
        """Copy the encoder, weights included."""
        return copy.deepcopy(self)

    def resample(self, images: Tensor) -> Tensor:
        """Bring uint8 images to the encoder's channels and size.

        Args:
            images: uint8, (N, H, W) or (N, H, W, 3), on any device.

        Returns:
            float32 on the encoder's device, (N, channels, size, size), values 0 to 255.
        """
        pixels = images.to(self.device, non_blocking=True).float()
        pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        if self.card.input.channels == 1 and pixels.shape[1] == 3:
            weights = pixels.new_tensor([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
            pixels = (pixels * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, size=(self.size, self.size), mode="bicubic", antialias=True
            ).clamp_(0, 255)  # a cubic kernel overshoots at edges
        return pixels.expand(-1, self.card.input.channels, -1, -1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale values 0 to 255 to the network's input range, mean and std."""
        low, high = self.card.input.range
        # (pixels * (high - low) / 255 + low - mean) / std, in one pass over the memory.
        scale = (high - low) / 255 / self.std
        return torch.addcmul((low - self.mean) / self.std, pixels, scale)

    def embed(self, inputs: Tensor) -> Tensor:
        """Embed normalised images as float32 vectors of length sqrt(D).

        Only the direction counts: raw lengths differ between encoders by orders of magnitude, and
        standardising features on few shots broke 1-shot probes.
        """
        embedding = self.represent(inputs)
        return functional.normalize(embedding, dim=-1) * math.sqrt(embedding.shape[-1])

    def represent(self, inputs: Tensor) -> Tensor:
        """Compute the network's vectors (N, D) of normalised images, float32, not normalised."""
        with self.autocast():
            vectors: Tensor = self.network(inputs.contiguous(memory_format=torch.channels_last))
        return vectors.float()

    @cached_property
    def pyramid_channels(self) -> list[int]:
        """Channels of the four maps of `pyramid`.

        Raises:
            InputError: When the network gives no feature maps, or not as expected.
        """
        shape = (1, self.card.input.channels, self.size, self.size)
        probe = self.duplicate().eval()  # a copy, to keep the mode of this encoder's layers
        try:
            with torch.inference_mode():
                maps = probe.pyramid(torch.zeros(shape, device=self.device))
        except InputError:
            raise
        except Exception as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{self.card.name}: feature maps of images of shape {shape} failed: {line}"
            ) from error
        return [features.shape[1] for features in maps]

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """Compute feature maps of normalised images at strides 4, 8, 16 and 32, shallow first.

        The maps cover the image as `extend` leaves it, with sides that 32 divides. A network of
        any input size sees the extended image, one of a fixed size the image itself. A map of
        another stride is resampled bilinearly, without learning; a simple feature pyramid (Li et
        al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022).

        A Python network takes part by a method ``forward_intermediates``, from images as
        ``forward`` takes them to four maps (N, C, H, W), shallow first, each of which covers the
        whole image; an attribute ``fixed_size = True`` says that it takes no other size.

        Args:
            pixels: What `embed` takes, (N, channels, H, W), square or not.

        Returns:
            Four float32 maps (N, C, ceil(H / 32) * 32 / stride, ceil(W / 32) * 32 / stride).

        Raises:
            InputError: When the network gives no feature maps, or not as expected.
        """
        name = self.card.name
        network: Any = self.network
        if not hasattr(self.inner, "forward_intermediates"):
            raise InputError(f"{name}: no feature maps, which segmentation needs")
        extended = extend(pixels)
        inputs = pixels if getattr(network, "fixed_size", False) else extended
        with self.autocast():
            maps = network.forward_intermediates(
                inputs.contiguous(memory_format=torch.channels_last)
            )
        shapes = [tuple(features.shape) for features in maps]
        if len(shapes) != 4 or any(len(shape) != 4 for shape in shapes):
            raise InputError(
                f"{name}: forward_intermediates returns shapes {shapes}; four feature maps "
                "(N, C, H, W), shallow first, are expected"
            )
        height, width = extended.shape[-2:]
        beyond = (height / inputs.shape[-2], width / inputs.shape[-1])
        return [
            _lay_over(features.float(), size=(height // stride, width // stride), beyond=beyond)
            for features, stride in zip(maps, PYRAMID_STRIDES, strict=True)
        ]

    def forward(self, images: Tensor) -> Tensor:
        """Embed uint8 images (N, H, W) or (N, H, W, 3) as (N, D)."""
        return self.embed(self.normalise(self.resample(images)))


def extend(images: Tensor) -> Tensor:
    """Pad (N, C, H, W) by its last row and column to multiples of 32."""
    height, width = images.shape[-2:]
    multiple = PYRAMID_STRIDES[-1]
    edges = (0, -width % multiple, 0, -height % multiple)
    return functional.pad(images, edges, mode="replicate") if any(edges) else images


def _lay_over(features: Tensor, *, size: tuple[int, int], beyond: tuple[float, float]) -> Tensor:
    """Resample a map of an image to a grid over the image extended to the right and below.

    Args:
        features: (N, C, H, W), which cover the image.
        size: Height and width of the grid.
        beyond: Height and width that the grid covers, in units of the image's; cells outside the
            image take the values at its edge.
    """
    if features.shape[-2:] == size and beyond == (1, 1):
        return features
    # A sampled position runs from -1 to 1 over the image: the extended one's from -1 to 2 b - 1.
    down, right = beyond
    grid = functional.affine_grid(
        features.new_tensor([[right, 0, right - 1], [0, down, down - 1]]).expand(
            len(features), 2, 3
        ),
        [*features.shape[:2], *size],
        align_corners=False,
    )
    return functional.grid_sample(features, grid, padding_mode="border", align_corners=False)


def check_encoder(encoder: Encoder) -> None:
    """Refuse a network that is not a finite per-image function, and set the width.

    The feature of an image must not depend on the other images of the batch, or the order of a
    test split would change its results.

    Raises:
        InputError: Naming the network's output and the expected one.
    """
    name = encoder.card.name
    images = _test_images(encoder)
    encoder.eval()
    with torch.inference_mode():
        together = _raw(encoder, images)
        if together.ndim != 2 or together.shape[0] != len(images):
            raise InputError(
                f"{name}: returns shape {tuple(together.shape)} for {len(images)} images; one "
                f"vector an image, ({len(images)}, D), is expected"
            )
        single = [_raw(encoder, images[i : i + 1]) for i in range(2)]
        for output in single:
            if output.shape != (1, together.shape[1]):
                raise InputError(
                    f"{name}: returns shape {tuple(output.shape)} for one image and "
                    f"{tuple(together.shape)} for {len(images)}; (N, D) with a fixed D is expected"
                )
        alone = torch.cat(single)
    if not torch.isfinite(together).all():
        file = encoder.card.weights.path
        raise InputError(
            f"{name}: returns NaN or infinite features; check the weights"
            f"{f' ({file})' if file else ''} and input.range"
        )
    scale = together.abs().max().item()
    difference = (alone - together[:2]).abs().max().item()
    # fp32 rounding differs a little between batch sizes; batch statistics differ a lot.
    if difference > 1e-3 * scale:
        raise InputError(
            f"{name}: the feature of an image depends on its batch (difference {difference:.2g} of "
            f"{scale:.2g}); normalise by stored statistics, as eval mode does"
        )
    if together.std(dim=0).mean().item() < 1e-4 * scale:
        warnings.warn(
            f"{name}: features are nearly constant over {len(images)} different images; is "
            "input.range right?",
            stacklevel=2,
        )
    encoder.width = together.shape[1]


def _raw(encoder: Encoder, images: Tensor) -> Tensor:
    """Compute the network's output in full precision, where batch sizes agree closely."""
    inputs = encoder.normalise(encoder.resample(images))
    try:
        output = encoder.network(inputs.contiguous(memory_format=torch.channels_last))
    except Exception as error:
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"{encoder.card.name}: fails on images of shape {tuple(inputs.shape)}: {line}"
        ) from error
    if not isinstance(output, Tensor):
        raise InputError(
            f"{encoder.card.name}: returns {type(output).__name__}; a tensor (N, D) is expected"
        )
    return output.float()


def _test_images(encoder: Encoder) -> Tensor:
    """Make 32 different images: smooth random fields of different contrast."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((32, 3, 8, 8), generator=generator)
    smooth = functional.interpolate(coarse, size=(64, 64), mode="bilinear")
    contrast = torch.linspace(0.2, 1.0, 32).view(-1, 1, 1, 1)
    return (smooth * contrast * 255).byte().permute(0, 2, 3, 1)
