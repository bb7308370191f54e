"""Compute convolutions of maps of a few pixels as matrix products."""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.acceleration.switch import accelerated

_PIXELS = 4
_KERNEL = 9  # larger kernels have too many neighbours to gather


def multiply_small_maps(network: nn.Module) -> None:
    """Train convolutions whose output has at most four pixels as one matrix product each.

    A network for 224 px has such maps at 64 px and less: the last stage of a ResNet
    holds three quarters of its weights and sees 2 x 2 pixels. oneDNN's convolutions process
    them image by image, and read all weights for two pixels at a time. The pixels of all images
    together are a matrix that is large enough for its matrix product, the sums are the same: a
    training step takes .82 (ResNet-18, 64 px) to .66 (ResNet-50, 28 px) of the time on a processor
    in bf16. In fp32 it takes the same time and is left alone, as are prediction and GPUs.
    With ``BENCH_ACCELERATION=0`` the network is unchanged.
    """
    if not accelerated():
        return
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == 1 and module.dilation == (1, 1):
            module._conv_forward = MethodType(_convolve, module)  # type: ignore[method-assign]


def _convolve(layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Replace the method that `nn.Conv2d` computes its output with."""
    output = _multiply(layer, images, weight, bias) if _worthwhile(images) else None
    return nn.Conv2d._conv_forward(layer, images, weight, bias) if output is None else output


def _worthwhile(images: Tensor) -> bool:
    return (
        images.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and images.ndim == 4
    )


def _multiply(
    layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor | None:
    """Compute the output by one matrix product; ``None`` if it is not small."""
    (height, width), (down, right) = layer.kernel_size, layer.stride
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or height * width > _KERNEL:
        return None
    below, beside = layer.padding
    rows = (images.shape[-2] + 2 * below - height) // down + 1
    columns = (images.shape[-1] + 2 * beside - width) // right + 1
    if min(rows, columns) < 1 or rows * columns > _PIXELS:
        return None
    # Each output pixel's neighbourhood is a row: (N, rows, columns, height * width * channels).
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, beside, beside, below, below))
    neighbours = torch.cat(
        [
            padded[:, y : y + down * rows : down, x : x + right * columns : right]
            for y in range(height)
            for x in range(width)
        ],
        dim=-1,
    )
    kernel = weight.permute(0, 2, 3, 1).flatten(1)
    output = functional.linear(neighbours, kernel, bias).permute(0, 3, 1, 2)
    plain = images.is_contiguous() and weight.is_contiguous()
    return output.contiguous() if plain else output
