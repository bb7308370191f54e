"""Run on several devices: Lightning Fabric starts them and averages their gradients."""

from __future__ import annotations

import logging
import os
import warnings
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medtransfer.core.errors import InputError
from medtransfer.encoders.encoder import resolve_device
from medtransfer.pretraining.options import Request

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_TOLD = (
    "MASTER_ADDR",
    "TORCHELASTIC_RUN_ID",
    "SLURM_NTASKS",
)  # torchrun, SLURM


def start_devices(request: Request, *, whole: bool) -> Fabric:
    """Start the other processes, if any; each then continues from here.

    Under ``torchrun`` or SLURM they are running already.

    Args:
        request: The options, with the number of devices.
        whole: Whether every trainable parameter takes part in every step.

    Raises:
        InputError: When the machine has fewer devices.
    """
    if request.nodes > 1 and not any(name in os.environ for name in _TOLD):
        raise InputError(
            f"--nodes: {request.nodes}, but the addresses of the others are not set; start it on "
            "each by torchrun, or under SLURM by srun"
        )
    device = resolve_device(request.device)
    if device.type == "cuda":
        available = torch.cuda.device_count()
        if request.devices > available or (device.index or 0) >= available:
            raise InputError(
                f"--device {request.device}, --devices {request.devices}: this machine has "
                f"{available}"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own remarks about its environment
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        several = request.devices * request.nodes > 1
        index = [device.index] if device.index is not None and not several else request.devices
        fabric = Fabric(
            accelerator=device.type,
            devices=index,
            num_nodes=request.nodes,
            strategy=DDPStrategy(find_unused_parameters=not whole) if several else "auto",
        )
        fabric.launch()
    return fabric


def share_statistics(network: nn.Module, device: torch.device) -> None:
    """Make batch norms use the mean and variance over the images of all devices.

    A batch then gives the same result on any number of devices. torch implements it for GPUs; on
    CPUs it is implemented here, for the layers of torch's own classes.

    Raises:
        InputError: On CPUs, for batch norms of other classes.
    """
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for name, module in network.named_modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.forward = MethodType(_normalise, module)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"--devices: on processors, several share torch's own batch norms only; {name} is "
                f"a {type(module).__name__}"
            )


class _Sum(torch.autograd.Function):
    """Sum over all devices; its backward pass sends the gradient to each of them."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _normalise(layer: nn.BatchNorm2d, inputs: Tensor) -> Tensor:
    """Apply a batch norm with the statistics of the images of all devices."""
    if not layer.training:
        mean, variance = layer.running_mean, layer.running_var
        return functional.batch_norm(
            inputs, mean, variance, layer.weight, layer.bias, eps=layer.eps
        )
    values = inputs.float()
    axes = [0, *range(2, values.ndim)]
    count = values.numel() // values.shape[1]
    sums = torch.stack([values.sum(axes), values.square().sum(axes)])
    total = count * torch.distributed.get_world_size()
    mean, square = _Sum.apply(sums) / total
    variance = (square - mean.square()).clamp(min=0)  # rounding may make it negative
    if layer.track_running_stats:
        assert layer.running_mean is not None and layer.running_var is not None
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.add_(1)
        momentum = layer.momentum if layer.momentum is not None else 0.1
        with torch.no_grad():
            layer.running_mean.lerp_(mean, momentum)
            layer.running_var.lerp_(variance * total / (total - 1), momentum)
    shape = [1, -1] + [1] * (values.ndim - 2)
    normalised = (values - mean.view(shape)) * (variance + layer.eps).rsqrt().view(shape)
    if layer.affine:
        normalised = normalised * layer.weight.view(shape) + layer.bias.view(shape)
    output: Tensor = normalised.to(inputs.dtype)
    return output
