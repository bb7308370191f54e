"""Scores by source domain and target domain, and the advantage of intra transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medtransfer.specs.encoder import EncoderCard, PretrainingCard


@dataclass(frozen=True)
class SourceDomains:
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


def compare_source_domains(table: pd.DataFrame, cards: Mapping[str, EncoderCard]) -> SourceDomains:
    """Group the ranked encoders by source domain (after Krones et al.).

    Args:
        table: Their scores by domain, columns ``domain_<name>``.
        cards: Theirs.
    """
    from scipy import stats  # late: not every board has source domains

    names = [name for name in table.columns if name.startswith("domain_")]
    scores = table[names].astype(float).rename(columns=lambda name: name.removeprefix("domain_"))
    source = pd.Series(
        {name: name_source(card.pretraining) for name, card in cards.items()}, dtype=str
    )
    source = source.reindex(scores.index)
    differences: list[float] = []
    for domain in scores.columns:
        relations = pd.Series({name: card.relation(str(domain)) for name, card in cards.items()})
        relations = relations.reindex(scores.index)
        away = scores.loc[relations == "inter", domain]
        if len(away):
            home = scores.loc[relations == "intra", domain]
            differences += (home - away.mean()).tolist()
    return SourceDomains(
        scores=scores.groupby(source).mean().sort_index(),
        encoders={str(name): int(count) for name, count in source.value_counts().items()},
        pairs=len(differences),
        difference=float(np.mean(differences)) if differences else float("nan"),
        p=float(stats.wilcoxon(differences).pvalue) if len(differences) > 5 else None,
    )


def name_source(pretraining: PretrainingCard) -> str:
    """Source domains of a pre-training as one name."""
    if pretraining.objective == "none":
        return "random weights"
    if pretraining.domains is None:
        return "not declared"
    return " + ".join(sorted(pretraining.domains)) or "no images"
