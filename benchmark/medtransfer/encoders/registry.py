"""Registry of encoders: cards, and builders of networks outside timm.

Imports no torch: listing the encoders must not wait for it. Builders import what they need.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from medtransfer.core.documents import packaged
from medtransfer.core.errors import InputError, suggest
from medtransfer.core.plugins import load_entry_points
from medtransfer.specs.encoder import Architecture, EncoderCard

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[[], "nn.Module"]


@dataclass(frozen=True)
class Registration:
    """Card and, unless timm builds the network, its builder."""

    card: EncoderCard
    builder: Builder | None = None


_REGISTRY: dict[str, Registration] = {}


def register(card: EncoderCard, builder: Builder | None = None) -> EncoderCard:
    """Register an encoder under its name.

    Args:
        card: The encoder's card. With a builder, its architecture may be left to this function:
            ``architecture=built_by(builder)``.
        builder: Returns the network: a ``torch.nn.Module`` from normalised images of shape
            (N, channels, size, size) to vectors of shape (N, D). Needed unless timm builds it.

    Returns:
        The card.

    Raises:
        InputError: When the name is taken, or neither timm nor a builder makes the network.

    Examples:
        >>> import medtransfer
        >>> card = medtransfer.register(
        ...     medtransfer.EncoderCard(
        ...         name="my-resnet",
        ...         architecture={"timm": "resnet18"},
        ...         input={"size": 128},
        ...         pretraining={"domains": [], "datasets": [], "objective": "none"},
        ...     )
        ... )
        >>> card.name
        'my-resnet'
    """
    if card.name in _REGISTRY:
        raise InputError(f"encoder '{card.name}' is registered twice; choose another name")
    if (card.architecture.timm is None) == (builder is None):
        raise InputError(f"encoder '{card.name}': give either architecture.timm or a builder")
    _REGISTRY[card.name] = Registration(card, builder)
    return card


def forget(name: str) -> Registration:
    """Unregister an encoder, and return its registration."""
    return _REGISTRY.pop(name)


def built_by(builder: Builder) -> Architecture:
    """Return the architecture for a card whose network ``builder`` makes.

    Examples:
        >>> from torch import nn
        >>> from medtransfer.encoders.registry import built_by
        >>> built_by(nn.Flatten).python
        'torch.nn.modules.flatten:Flatten'
    """
    return Architecture(python=f"{builder.__module__}:{builder.__qualname__}")


@cache
def _load_all() -> None:
    """Import the shipped baselines and the installed packages that register encoders."""
    for module in pkgutil.iter_modules([str(packaged("baselines"))]):
        importlib.import_module(f"medtransfer.baselines.{module.name}")
    load_entry_points("medtransfer.encoders")


def registered() -> dict[str, Registration]:
    """Return all registered encoders by name."""
    _load_all()
    return dict(sorted(_REGISTRY.items()))


def find(name: str) -> Registration:
    """Find a registered encoder by name.

    Raises:
        InputError: For an unknown name, with the closest registered one.
    """
    registrations = registered()
    if name not in registrations:
        raise InputError(
            f"unknown encoder '{name}'{suggest(name, registrations)} (no file or folder of that "
            "name exists either; `bench list encoders` shows all names)"
        )
    return registrations[name]
