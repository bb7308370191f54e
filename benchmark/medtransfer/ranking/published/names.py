"""Domains and corpora of a study that are spelt almost as those of the shipped tasks are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Set

from medtransfer.ranking.published.study import Study
from medtransfer.ranking.statistics.contamination import plain_name
from medtransfer.specs.task import load_tasks

__all__ = ["misspelt"]


def misspelt(study: Study) -> list[str]:
    """A note for each such name.

    The transfer relation and the check for contamination go by these names. A study may have
    domains and corpora of its own, so nothing is refused.
    """
    cards = load_tasks().values()
    targets, encoders = study.targets.values(), study.encoders.values()
    domains = [target.domain for target in targets]
    domains += [name for encoder in encoders for name in encoder.pretraining.domains or ()]
    corpora = [name for encoder in encoders for name in encoder.pretraining.datasets or ()]
    kinds = {
        "domain": (domains, {card.domain for card in cards}),
        "data set": (corpora, {name for card in cards for name in card.corpora}),
    }
    return [
        f"{kind} {name!r} is not among those of the shipped tasks; did you mean '{near}'?"
        for kind, (names, known) in kinds.items()
        for name in dict.fromkeys(names)
        if (near := _near(name, known))
    ]


def _near(name: str, known: Set[str]) -> str | None:
    """The known name that is almost this one; digits tell cifar-10 and cifar-100 apart."""
    if name in known:
        return None
    plain = {plain_name(other): other for other in sorted(known)}
    found = difflib.get_close_matches(plain_name(name), plain, n=1, cutoff=0.82)
    return plain[found[0]] if found and _digits(found[0]) == _digits(name) else None


def _digits(name: str) -> list[str]:
    return re.findall(r"\d+", name)
