"""Floating point operations, counted on the ``meta`` device: exact, without hardware.

A multiplication and an addition count as two. Matrix products and convolutions are counted,
element-wise work is not, as in the published figures of architectures.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_ITEMS = 2  # batch norm in train mode refuses a single 1 x 1 feature map


def _convolution_backward(
    grad_out_shape: Any,
    x_shape: Any,
    w_shape: Any,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    output_mask: list[bool],
    **_: Any,
) -> int:
    """Count one forward convolution for each requested gradient.

    torch's own formula ignores groups, and counts depth-wise convolutions 8 to 40 times too
    high. A weight's shape (out, in / groups, ...) already accounts for groups, so the forward
    formula 2 * positions * prod(weight) is right for every number of groups.
    """
    positions = math.prod((x_shape if transposed else grad_out_shape)[2:])
    forward: int = 2 * grad_out_shape[0] * positions * math.prod(w_shape)
    return forward * (int(output_mask[0]) + int(output_mask[1]))


_FORMULAS = {torch.ops.aten.convolution_backward: _convolution_backward}


def _on_meta(module: nn.Module) -> nn.Module:
    """Copy a module without its values."""
    memo: dict[int, torch.Tensor] = {id(b): b.to("meta") for b in module.buffers()}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(p.detach().to("meta"), p.requires_grad)
    return copy.deepcopy(module, memo)


def forward_flops(module: nn.Module, *, channels: int, size: int) -> int:
    """Count the FLOPs of one forward pass per image of ``channels`` x ``size`` x ``size``.

    A module without parameters and buffers has no products to count, so 0.
    """
    if not _countable(module):
        return 0

    def forward(network: nn.Module, images: torch.Tensor) -> None:
        with torch.no_grad():
            network.eval()(images)

    return _count(module, forward, channels=channels, size=size)


def training_flops(module: nn.Module, *, channels: int, size: int) -> int:
    """Count the FLOPs of a forward and a backward pass per image, for the trainable parameters.

    A module that cannot be trained here counts as three forward passes, the usual estimate.
    """
    if not any(p.requires_grad for p in module.parameters()):
        return forward_flops(module, channels=channels, size=size)

    def step(network: nn.Module, images: torch.Tensor) -> None:
        network.train()(images).sum().backward()

    try:
        return _count(module, step, channels=channels, size=size)
    except Exception:  # the cells that train it will report the error
        return 3 * forward_flops(module, channels=channels, size=size)


def _count(
    module: nn.Module,
    work: Callable[[nn.Module, torch.Tensor], None],
    *,
    channels: int,
    size: int,
) -> int:
    """Count FLOPs per image on ``meta``, or on the CPU where a module reads its values."""
    shape = (_ITEMS, channels, size, size)
    try:
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            work(_on_meta(module), torch.empty(shape, device="meta"))
    except Exception:
        network = copy.deepcopy(module).cpu()
        with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
            work(network, torch.zeros(shape))
    return int(counter.get_total_flops()) // _ITEMS


def _countable(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())
