"""Source domain against target domain: what it is worth to be at home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from medtransfer.specs.encoder import EncoderCard

__all__ = ["Sources", "compare_sources"]

_NOTHING = "nothing (random weights)"
_UNKNOWN = "not declared"


@dataclass(frozen=True)
class Sources:
    """Encoders by what they were pre-trained on.

    Attributes:
        scores: One row a source (the declared domains), one column a target domain: the mean
            in-domain score of the source's encoders.
        encoders: How many encoders each source has.
        pairs: Number of pairs of an encoder and a target domain of its own source.
        difference: Mean over these pairs of the encoder's score minus that of the encoders of
            other sources, on the same target domain.
        p: Of the signed-rank test of these differences; ``None`` with fewer than six pairs, which
            cannot show anything at 5 %.
    """

    scores: pd.DataFrame
    encoders: Mapping[str, int]
    pairs: int
    difference: float
    p: float | None


def compare_sources(table: pd.DataFrame, cards: Mapping[str, EncoderCard]) -> Sources:
    """Lay the ranked encoders out by source (in kind after Krones et al.).

    Args:
        table: Their scores by domain, columns ``domain_<name>``.
        cards: Theirs.
    """
    names = [name for name in table.columns if name.startswith("domain_")]
    scores = table[names].astype(float).rename(columns=lambda name: name.removeprefix("domain_"))
    source = pd.Series({name: _source(card) for name, card in cards.items()}, dtype=str)
    source = source.reindex(scores.index)
    differences: list[float] = []
    for domain in scores.columns:
        relations = pd.Series({name: card.relation(str(domain)) for name, card in cards.items()})
        relations = relations.reindex(scores.index)
        away = scores.loc[relations == "inter", domain]
        if len(away):
            home = scores.loc[relations == "intra", domain]
            differences += (home - away.mean()).tolist()
    return Sources(
        scores=scores.groupby(source).mean().sort_index(),
        encoders={str(name): int(count) for name, count in source.value_counts().items()},
        pairs=len(differences),
        difference=float(np.mean(differences)) if differences else float("nan"),
        p=float(stats.wilcoxon(differences).pvalue) if len(differences) > 5 else None,
    )


def _source(card: EncoderCard) -> str:
    if card.pretraining.objective == "none":
        return _NOTHING
    domains = card.pretraining.domains
    return " + ".join(sorted(domains)) if domains else _UNKNOWN
