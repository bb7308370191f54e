"""Choose the trainable layers of a network."""

from __future__ import annotations

from collections.abc import Sequence

from medtransfer.adaptation.trainable import layer_groups, train_only
from medtransfer.core.errors import InputError, suggest
from medtransfer.encoders.encoder import Encoder

Stages = int | tuple[str, ...] | None


def choose_trainable(encoder: Encoder, stages: Stages) -> None:
    """Freeze all but some stages of an encoder; frozen modules stay in eval mode.

    ``None`` trains all stages, a number the deepest of timm's coarse layer groups (a ResNet's
    stages, a plain transformer's blocks), names the layers of these names.
    """
    if stages is None:
        encoder.frozen_modules = []
        return
    if isinstance(stages, int):
        train_only(encoder, _deepest(encoder, stages).__contains__)
        return
    _check_layers(encoder, stages)
    train_only(encoder, lambda name: any(_is_inside(name, stage) for stage in stages))
    if all(parameter.requires_grad for parameter in encoder.inner.parameters()):
        raise InputError("--trainable: these stages are the whole network; use full")


def _is_inside(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _deepest(encoder: Encoder, count: int) -> set[str]:
    """Find the names of the parameters in the deepest stages."""
    groups = layer_groups(encoder, coarse=True)
    if not groups:
        raise InputError(
            f"--trainable: {encoder.card.name} does not define its stages; name layers instead"
        )
    layers = sorted(set(groups.values()))
    if count >= len(layers):
        raise InputError(
            f"--trainable: {count} stages, but {encoder.card.architecture.timm} has {len(layers)} "
            "with its stem; choose fewer, or full"
        )
    return {name for name, layer in groups.items() if layer in layers[-count:]}


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
            raise InputError(f"--trainable: no layer '{layer}' with weights{hint}")
    if not layers:
        raise InputError("--trainable: name at least one layer")
