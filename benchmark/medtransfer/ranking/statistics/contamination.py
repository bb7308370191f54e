"""Contamination: declared pre-training data against the source corpora of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Literal

from medtransfer.specs.encoder import EncoderCard

Contamination = Literal["clean", "overlap", "unknown"]


def overlapping(card: EncoderCard, lineages: Mapping[str, Iterable[str]]) -> list[str]:
    """List the tasks with a source corpus among the encoder's declared data.

    Args:
        card: The encoder's.
        lineages: Source corpora of each task, test splits included.
    """
    seen = {plain_name(name) for name in card.pretraining.datasets or ()}
    return [
        task
        for task, corpora in lineages.items()
        if any(plain_name(name) in seen for name in corpora)
    ]


def contamination(card: EncoderCard, lineages: Mapping[str, Iterable[str]]) -> Contamination:
    """The verdict over some tasks; what is not declared is unknown."""
    if overlapping(card, lineages):
        return "overlap"
    return "unknown" if card.pretraining.datasets is None else "clean"


@cache
def plain_name(name: str) -> str:
    """Normalise the spelling of a corpus: CIFAR-10, cifar10, Cifar_10."""
    return "".join(character for character in name.lower() if character.isalnum())
