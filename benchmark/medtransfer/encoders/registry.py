"""Encoders by name: cards, and builders for those that timm does not build.

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
    """A card and, unless timm builds the network, its builder."""

    card: EncoderCard
    builder: Builder | None = None


_REGISTRY: dict[str, Registration] = {}


def register(card: EncoderCard, builder: Builder | None = None) -> EncoderCard:
    """Make an encoder known by its name.

    Args:
        card: The encoder's card. With a builder, its architecture may be left to this function:
            ``architecture=built_by(builder)``.
        builder: Returns the network: a ``torch.nn.Module`` from normalised images of shape
            (N, channels, size, size) to vectors of shape (N, D). Needed unless timm builds it.

    Returns:
        The card.

    Raises:
        InputError: When the name is taken, or nothing says how to build the network.

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
    """Take an encoder out again, and return what was registered."""
    return _REGISTRY.pop(name)


def built_by(builder: Builder) -> Architecture:
    """The architecture of a card whose network ``builder`` makes.

    Examples:
        >>> from torch import nn
        >>> from medtransfer.encoders.registry import built_by
        >>> built_by(nn.Flatten).python
        'torch.nn.modules.flatten:Flatten'
    """
    return Architecture(python=f"{builder.__module__}:{builder.__qualname__}")


@cache
def _load_all() -> None:
    """Import the shipped baselines and the packages that offer encoders."""
    for module in pkgutil.iter_modules([str(packaged("baselines"))]):
        importlib.import_module(f"medtransfer.baselines.{module.name}")
    load_entry_points("medtransfer.encoders")


def registered() -> dict[str, Registration]:
    """All known encoders by name."""
    _load_all()
    return dict(sorted(_REGISTRY.items()))


def find(name: str) -> Registration:
    """The encoder of that name.

    Raises:
        InputError: With the closest known name.
    """
    known = registered()
    if name not in known:
        raise InputError(
            f"unknown encoder '{name}'{suggest(name, known)} (a file or folder of that name does "
            "not exist either; `bench list encoders` shows the known ones)"
        )
    return known[name]
