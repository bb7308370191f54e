"""Which of an encoder's parameters an adaptation trains: all, none, the deepest, or additions."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models._manipulate import group_parameters
from torch import nn

from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.timm_networks import TimmNetwork
from medtransfer.specs.errors import InputError
from medtransfer.specs.protocol import Lora, Partial, Protocol

__all__ = ["check_adaptable", "inner_network", "set_trainable"]


def inner_network(encoder: Encoder) -> nn.Module:
    """The network whose names timm's layer groups go by."""
    network = encoder.network
    return network.network if isinstance(network, TimmNetwork) else network


def set_trainable(encoder: Encoder, adaptation: str, protocol: Protocol, *, maps: bool) -> None:
    """Freeze what the adaptation does not train, and add what it adds.

    Args:
        encoder: Changed in place; a frozen part of it stays in eval mode from then on.
        adaptation: ``decoder``, ``partial``, ``lora`` or ``finetune``.
        protocol: With the settings of the adaptation.
        maps: Whether its feature maps are used, and not its embedding.

    Raises:
        InputError: When the network has no layers that could be told apart, or added to.
    """
    if adaptation == "decoder":
        encoder.requires_grad_(False)
    elif adaptation == "partial":
        assert protocol.partial is not None
        _freeze_shallow_layers(encoder, protocol.partial)
    elif adaptation == "lora":
        assert protocol.lora is not None
        _add_updates(encoder, protocol.lora, maps=maps)


def check_adaptable(encoder: Encoder, adaptation: str, protocol: Protocol, *, maps: bool) -> None:
    """Find out before anything runs whether an encoder can be adapted so.

    Raises:
        InputError: Saying what it lacks.
    """
    if maps:
        _ = encoder.pyramid_channels
    if adaptation in ("partial", "lora"):
        set_trainable(encoder.duplicate(), adaptation, protocol, maps=maps)


def _freeze_shallow_layers(encoder: Encoder, settings: Partial) -> None:
    """Leave the deepest layer groups trainable, at least one."""
    network: Any = inner_network(encoder)
    groups: dict[str, int] = {}
    if hasattr(network, "group_matcher"):
        groups = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    count = len(set(groups.values()))
    if count < 2:
        raise InputError(
            f"{encoder.card.name}: does not tell its layers apart (timm's group_matcher), which "
            "partial needs"
        )
    first = count - max(1, round(settings.share * count))
    deep = {layer: place >= first for place, layer in enumerate(sorted(set(groups.values())))}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and deep[groups[name]])


def _add_updates(encoder: Encoder, settings: Lora, *, maps: bool) -> None:
    """Freeze the encoder and add an update to each of its products that can take one."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("lora needs peft: pip install 'medtransfer[lora]'") from None
    names = _called_products(encoder, maps=maps)
    if not names:
        raise InputError(
            f"{encoder.card.name}: has no linear layer and no ungrouped convolution, one of which "
            "lora needs"
        )
    # A list would match the ends of names: layer3.conv1 by conv1.
    exactly = "|".join(map(re.escape, names))
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=exactly)  # type: ignore[arg-type]
    inject_adapter_in_model(config, inner_network(encoder))


def _called_products(encoder: Encoder, *, maps: bool) -> list[str]:
    """Names of the linear layers and ungrouped convolutions that a forward pass calls.

    Attention may read the weights of a layer without calling it (torch's MultiheadAttention,
    BEiT's qkv): an update there would never be used. Nor does one fit a convolution that pads by
    the size of its input.
    """
    names: dict[str, None] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            plain = nn.Conv2d.forward if isinstance(module, nn.Conv2d) else nn.Linear.forward
            if plain(module, *inputs).shape == output.shape:  # type: ignore[arg-type]
                names[name] = None

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in inner_network(encoder).named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    shape = (1, encoder.card.input.channels, encoder.size, encoder.size)
    images = torch.zeros(shape, device=encoder.device)
    try:
        with torch.inference_mode():
            encoder.eval()
            _ = encoder.pyramid(images) if maps else encoder.embed(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(names)
