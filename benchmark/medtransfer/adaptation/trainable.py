"""Choose the parameters of an encoder that an adaptation trains."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from medtransfer.core.errors import InputError
from medtransfer.encoders.encoder import Encoder
from medtransfer.specs.protocol import Lora, Partial, Protocol

_targets: WeakKeyDictionary[Encoder, dict[bool, list[str]]] = WeakKeyDictionary()


def prepare_encoder(
    encoder: Encoder, adaptation: str, protocol: Protocol, *, maps: bool
) -> Encoder:
    """Copy an encoder and freeze all parameters that the adaptation does not train.

    Args:
        encoder: The encoder; it is not changed.
        adaptation: ``decoder``, ``partial``, ``lora`` or ``finetune``.
        protocol: The protocol, with the settings of the adaptation.
        maps: Whether feature maps are used instead of the embedding.

    Returns:
        The copy; its frozen modules stay in eval mode.

    Raises:
        InputError: When the encoder has no feature maps, no layer groups, no layers for LoRA, or
            nothing to train.
    """
    if maps:
        _ = encoder.pyramid_channels
    copy = encoder.duplicate()
    if adaptation == "decoder":
        copy.requires_grad_(False)
        copy.frozen_modules = [copy.network]
        return copy
    parameters = list(copy.parameters())
    if adaptation == "partial":
        assert protocol.partial is not None
        _freeze_shallow_layers(copy, protocol.partial)
    elif adaptation == "lora":
        assert protocol.lora is not None
        _add_updates(copy, protocol.lora, _find_targets(encoder, protocol.lora, maps=maps))
    if parameters and not any(parameter.requires_grad for parameter in copy.parameters()):
        raise InputError(
            f"{encoder.card.name}: nothing to train: all parameters of {adaptation} are frozen "
            "(requires_grad is False)"
        )
    return copy


def _freeze_shallow_layers(encoder: Encoder, settings: Partial) -> None:
    """Keep the deepest layer groups trainable, at least one."""
    network: Any = encoder.inner
    groups: dict[str, int] = {}
    if hasattr(network, "group_matcher"):
        from timm.models._manipulate import group_parameters

        groups = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    layers = sorted(set(groups.values()))
    if len(layers) < 2:
        raise InputError(
            f"{encoder.card.name}: does not tell its layers apart (timm's group_matcher), which "
            "partial needs"
        )
    deep = layers[-max(1, round(settings.share * len(layers))) :]
    train_only(encoder, lambda name: groups[name] in deep)


def train_only(encoder: Encoder, chosen: Callable[[str], bool]) -> None:
    """Freeze the parameters of other names; frozen modules stay in eval mode.

    Args:
        encoder: Changed in place. Parameters that are frozen already stay so.
        chosen: Whether the parameter of this name inside the network is trained.
    """
    for name, parameter in encoder.inner.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and chosen(name))
    encoder.frozen_modules = _find_frozen(encoder)


def _find_frozen(module: nn.Module) -> list[nn.Module]:
    """Find the largest frozen modules that have parameters or buffers."""
    frozen = []
    for part in module.children():
        parameters = list(part.parameters())
        if any(parameter.requires_grad for parameter in parameters):
            frozen += _find_frozen(part)
        elif parameters or any(True for _ in part.buffers()):
            frozen.append(part)
    return frozen


def _add_updates(encoder: Encoder, settings: Lora, targets: Sequence[str]) -> None:
    """Freeze the encoder and add a low-rank update to each named layer."""
    from peft import LoraConfig, inject_adapter_in_model  # an extra; takes seconds to import

    # A list would match ends of names, conv1 also layer3.conv1; an empty pattern matches nothing.
    exactly = "|".join(map(re.escape, targets))
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=exactly)  # type: ignore[arg-type]
    inject_adapter_in_model(config, encoder.inner)
    encoder.frozen_modules = _find_frozen(encoder)


def _find_targets(encoder: Encoder, settings: Lora, *, maps: bool) -> list[str]:
    """List the layers whose updates affect the output, by trying all of them.

    Attention may use the weight of a layer without calling it (torch's MultiheadAttention, BEiT's
    qkv), and a layer may have two names: an update there would be counted but never trained.

    Raises:
        InputError: When there is none, or training would use another network than prediction.
    """
    cached = _targets.setdefault(encoder, {})
    if maps not in cached:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            cached[maps] = _try_targets(encoder, settings, maps=maps)
    return cached[maps]


def _try_targets(encoder: Encoder, settings: Lora, *, maps: bool) -> list[str]:
    name = encoder.card.name
    candidates = [
        name for name, module in encoder.inner.named_modules() if name and _is_plain(module)
    ]
    trial = encoder.duplicate()
    trained_targets: list[str] = []
    if candidates:
        _add_updates(trial, settings, candidates)
        shape = (2, encoder.card.input.channels, encoder.size, encoder.size)
        images = torch.randn(shape).to(encoder.device)
        try:
            before = _output(trial, images, maps=maps).detach()
            second = {n: p for n, p in trial.inner.named_parameters() if ".lora_B." in n}
            for parameter in second.values():
                nn.init.normal_(parameter)
            trained = _output(trial, images, maps=maps)
            (trained * torch.randn(trained.shape).to(trained.device)).sum().backward()  # type: ignore[no-untyped-call]
            with torch.inference_mode():
                predicted = _output(trial, images, maps=maps)
        except Exception as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(f"{name}: fails with low-rank updates, so no lora: {line}") from error
        trained_targets = [
            n.partition(".lora_B.")[0] for n, p in second.items() if p.grad is not None
        ]
        moved, apart = (trained - before).abs().mean(), (trained - predicted).abs().mean()
        if trained_targets and not apart < 0.1 * moved:
            raise InputError(
                f"{name}: takes another way through its layers in training than in prediction "
                "(torch's fused TransformerEncoderLayer does), so no lora"
            )
    if not trained_targets:
        raise InputError(
            f"{name}: no plain linear layer and no plain ungrouped convolution, one of which "
            "lora needs"
        )
    return trained_targets


def _is_plain(module: nn.Module) -> bool:
    """Return whether peft's update of a layer has the same operation as the layer.

    peft ignores groups and dilation, and builds its factors of the layer's own class: one that
    standardises its weights would standardise an update, too.
    """
    if type(module) is nn.Conv2d:
        return module.groups == 1 and set(module.dilation) == {1}
    return type(module) is nn.Linear


def _output(encoder: Encoder, images: Tensor, *, maps: bool) -> Tensor:
    """Compute the embedding, or all feature maps as rows of one matrix."""
    encoder.eval()
    if not maps:
        return encoder.embed(images)
    return torch.cat([level.flatten(1) for level in encoder.pyramid(images)], dim=1)
