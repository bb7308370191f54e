"""Encoder cards as the page shows them: a few labelled lines of text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from medtransfer.core.text import quantity
from medtransfer.ranking.published.study import PublishedEncoder
from medtransfer.ranking.statistics.source_domains import name_source
from medtransfer.specs.encoder import EncoderCard, PretrainingCard


def describe(card: EncoderCard) -> dict[str, Any]:
    """Name, title, architecture, family (for the filter), source domain, and the labelled facts."""
    return {
        "name": card.name,
        "title": card.title,
        "architecture": _architecture(card),
        "family": _family(card),
        "source": name_source(card.pretraining),
        "facts": [[label, text] for label, text in _facts(card) if text],
    }


def describe_published(encoder: PublishedEncoder) -> dict[str, Any]:
    """Describe an encoder of a published study; its architecture is unknown."""
    facts = dict(_pretraining_facts(encoder.pretraining))
    if encoder.parameters is not None:
        facts = {"Parameters": quantity(encoder.parameters, "count"), **facts}
    return {
        "name": encoder.name,
        "title": encoder.title,
        "architecture": "",
        "family": "",
        "source": name_source(encoder.pretraining),
        "facts": [[label, text] for label, text in facts.items() if text],
    }


def _architecture(card: EncoderCard) -> str:
    return card.architecture.timm or card.architecture.python or ""


def _family(card: EncoderCard) -> str:
    """The leading letters of timm's name: resnet, vit, convnext; others were built by hand."""
    if card.architecture.timm is None:
        return "other"
    leading = re.match(r"[a-z]+", card.architecture.timm.lower())
    return leading.group() if leading else "other"


def _facts(card: EncoderCard) -> Iterator[tuple[str, str]]:
    weights, taken = card.weights, card.input
    options = ", ".join(f"{name}={value}" for name, value in card.architecture.options.items())
    yield "Architecture", _architecture(card) + (f" ({options})" if options else "")
    yield "Weights", weights.hub or weights.url or weights.path or "random"
    yield "SHA-256 of the weights", weights.sha256 or ""
    yield (
        "Input",
        f"{taken.size} px, {taken.channels} channel{'s' if taken.channels > 1 else ''}, "
        f"range {taken.range[0]:g} to {taken.range[1]:g}, "
        f"mean {_numbers(taken.mean)}, std {_numbers(taken.std)}",
    )
    yield "Pooling", card.pooling
    yield from _pretraining_facts(card.pretraining)
    yield "Licence of the weights", card.licence
    yield "Citation", card.citation
    yield "Address", card.url


def _pretraining_facts(pretraining: PretrainingCard) -> Iterator[tuple[str, str]]:
    yield "Pre-training", pretraining.objective
    yield "Pre-training domains", _names(pretraining.domains)
    yield "Pre-training data", _names(pretraining.datasets)
    if pretraining.images_seen is not None:
        yield "Images seen", quantity(pretraining.images_seen, "count")
    yield "Starts from", pretraining.init or ""
    if (run := pretraining.run) is not None:
        yield (
            "Recipe",
            f"{run.recipe}, {quantity(run.images, 'count')} images, {run.epochs:g} epochs",
        )
    cost = pretraining.cost
    if cost.flops is not None:
        yield "Pre-training compute", quantity(cost.flops, "FLOP")
    if cost.gpu_hours is not None:
        yield "Pre-training time", f"{cost.gpu_hours:g} GPU hours"
    if cost.energy_kwh is not None:
        yield "Pre-training energy", f"{cost.energy_kwh:g} kWh"


def _names(names: list[str] | None) -> str:
    return "not declared" if names is None else ", ".join(names) or "none"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
