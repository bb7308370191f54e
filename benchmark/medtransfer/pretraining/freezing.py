"""Choose the layers of a network that a run trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models._manipulate import group_parameters

from medtransfer.adaptation.trainable import train_only
from medtransfer.core.errors import InputError, suggest
from medtransfer.encoders.encoder import Encoder

Stages = int | tuple[str, ...] | None


def choose_trainable(encoder: Encoder, stages: Stages) -> None:
    """Freeze all but some stages of an encoder; frozen modules stay in eval mode.

    Args:
        encoder: Changed in place. Parameters that are frozen already stay so.
        stages: ``None`` trains all; a number, that many deepest of timm's coarse layer groups (a
            ResNet's stages, a plain transformer's blocks); names, the layers of these names.

    Raises:
        InputError: When it selects no layer, or all of them.
    """
    if stages is None:
        encoder.frozen_modules = []
        return
    if isinstance(stages, int):
        names = _deepest(encoder, stages)
        train_only(encoder, names.__contains__)
        return
    _check_layers(encoder, stages)
    train_only(encoder, lambda name: any(_is_inside(name, stage) for stage in stages))
    if all(parameter.requires_grad for parameter in encoder.inner.parameters()):
        raise InputError("--trainable: these stages are the whole network; use full")


def _is_inside(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _deepest(encoder: Encoder, count: int) -> set[str]:
    """List the names of the parameters of the deepest stages."""
    network: Any = encoder.inner
    if not hasattr(network, "group_matcher"):
        raise InputError(
            f"--trainable: {encoder.card.name} has no layer groups (timm's group_matcher); name "
            "its layers"
        )
    groups: dict[str, int] = group_parameters(
        network, network.group_matcher(coarse=True), reverse=True
    )
    layer_of = {name: groups[name] for name, _ in network.named_parameters()}
    layers = sorted(set(layer_of.values()))
    if count >= len(layers):
        raise InputError(
            f"--trainable: {count} stages, but {encoder.card.architecture.timm} has {len(layers)} "
            "with its stem; fewer, or full, are expected"
        )
    return {name for name, layer in layer_of.items() if layer in layers[-count:]}


def _check_layers(encoder: Encoder, layers: Sequence[str]) -> None:
    parameters = [name for name, _ in encoder.inner.named_parameters()]
    names = [
        name
        for name, module in encoder.inner.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    for layer in layers:
        if not any(_is_inside(name, layer) for name in parameters):
            top = [name for name in names if "." not in name or name.startswith("blocks.")]
            hint = suggest(layer, names) or f"; known: {', '.join(top[:12])}, ..."
            raise InputError(f"--trainable: '{layer}' names no layer with weights{hint}")
    if not layers:
        raise InputError("--trainable: names no layer")
