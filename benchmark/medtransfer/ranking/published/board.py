"""Published studies on boards of their own: what was printed elsewhere, by the rules of this house.

Nothing here was measured here, and nothing of it stands beside what was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.core.documents import refuse_links
from medtransfer.core.errors import InputError
from medtransfer.ranking.boards.columns import TRANSFER, few_shot, full
from medtransfer.ranking.published.study import (
    Expectation,
    Pair,
    PublishedRecord,
    Study,
    load_study,
    read_published,
)
from medtransfer.ranking.records.frame import IN_DOMAIN
from medtransfer.ranking.records.grid import Scores, Where, average, mean, total

__all__ = ["VIEWS", "Published", "PublishedBoard", "load_published", "published_board"]

# Title, and from the scores to one value an encoder.
VIEWS: dict[str, tuple[str, Callable[[Any], pd.Series[Any]]]] = {
    **{
        column.name: (column.title, column.how)
        for column in TRANSFER
        if column.name.startswith(("intra", "inter"))
    },
    "overall": ("Overall", partial(average, column=IN_DOMAIN)),
}
_REGIMES = {"few-shot": few_shot, "full": full}


@dataclass(frozen=True)
class Published:
    """A study and its records, at most one of a cell."""

    study: Study
    records: tuple[PublishedRecord, ...]


@dataclass(frozen=True)
class PublishedBoard:
    """All encoders of one study.

    Attributes:
        study: The study.
        table: Index encoder, in the order of the board: the ranked ones, then the others by
            coverage. Columns title, parameters, rank (null: unranked), have and expected (cells)
            and a score for each of :data:`VIEWS`: null unless the encoder has every cell of it. The
            views by relation are over different targets for encoders of different domains, so only
            the overall score is ranked here.
        domains: One row per target domain, regime (few-shot, full) and encoder with any cell
            there, best first: relation, score, rank, have and expected. All of them are over the
            same targets, so intra and inter stand side by side.
        results: One row per encoder, task, budget and metric with any result: mean and std over
            the draws (null unless all are there), have, draws (expected), marked (how many), rank
            (by the mean) and ranked (among how many).
        findings: One row per comparison of the study's findings; from :func:`published_board`.
    """

    study: Study
    table: pd.DataFrame
    domains: pd.DataFrame
    results: pd.DataFrame
    findings: pd.DataFrame


def load_published(folder: Path) -> list[Published]:
    """Read every ``<folder>/<study>/{study.yaml,records.jsonl}``, sorted by study.

    Without the folder there are no studies.

    Raises:
        InputError: For a missing or wrong file, a link, or a folder under another name than its
            study.
    """
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith((".", "__")):
            continue
        refuse_links(path)
        study = load_study(path / "study.yaml")
        if study.name != path.name:
            raise InputError(
                f"{path / 'study.yaml'}: name: '{study.name}', but its folder is '{path.name}'"
            )
        records = read_published(path / "records.jsonl", study)
        found.append(Published(study, tuple(records)))
    return found


def published_board(published: Published) -> PublishedBoard:
    """Rank the encoders of a study and recompute its findings.

    The score of a cell is (m - chance) / (1 - chance) of the target's primary metric m; it is
    averaged over draws, then budgets, then targets, then domains. Each comparison of a finding is
    paired by draw and gets the 95 % interval of Student's t over the n draws that both encoders
    have: mean difference ± t(n - 1) s / √n. With the five draws of most studies a bootstrap would
    be too narrow. A finding holds when every one of its comparisons does (intersection-union test:
    Berger 1982, Technometrics 24, 295-300), so their number needs no correction.
    """
    study = published.study
    values = _values(published)
    scores = _scores(values, study)
    results = _results(values, study)
    return PublishedBoard(
        study=study,
        table=_table(scores, study),
        domains=_domains(scores),
        results=results,
        findings=_findings(values, results, study),
    )


def _values(published: Published) -> pd.DataFrame:
    """One row per cell of the study; a column for each metric, and marked. Null where missing."""
    study = published.study
    rows = {r.cell: {**r.metrics, "marked": bool(r.marks)} for r in published.records}
    names = [*study.metrics.values(), "marked"]
    index = pd.MultiIndex.from_tuples(study.cells, names=["encoder", "task", "budget", "draw"])
    table = pd.DataFrame([rows.get(cell, {}) for cell in study.cells], index=index, columns=names)
    table["marked"] = table["marked"].eq(True)
    return table.astype(dict.fromkeys(study.metrics.values(), float))


def _scores(values: pd.DataFrame, study: Study) -> Scores:
    """The score of every encoder, target and budget, and how many of its draws are there."""
    encoders = study.encoder_cards
    groups, scores, have = [], [], []
    for name, card in study.target_cards.items():
        own = values.xs(name, level="task")[card.metric].unstack("encoder")[list(encoders)]
        for budget, draws in own.groupby(level="budget", sort=False):
            groups.append((name, budget, study.adaptation, card.domain, len(draws)))
            found = (draws.to_numpy(float) - card.chance) / (1 - card.chance)
            scores.append(mean(found, np.zeros(len(found), np.intp))[0])
            have.append((~np.isnan(found)).sum(axis=0).astype(float))
    table = pd.DataFrame(groups, columns=["task", "budget", "adaptation", "domain", "draws"])
    domains = table["domain"].unique()
    relations = {
        name: [card.relation(domain) for domain in domains] for name, card in encoders.items()
    }
    return Scores(
        groups=table,
        encoders=list(encoders),
        columns={IN_DOMAIN: np.stack(scores), "have": np.stack(have)},
        relations=pd.DataFrame(relations, index=domains),
    )


def _table(scores: Scores, study: Study) -> pd.DataFrame:
    table = pd.DataFrame(index=pd.Index(scores.encoders, name="encoder"))
    cards = study.encoder_cards
    table["have"] = total(scores, "have").astype(int)
    table["expected"] = int(scores.groups["draws"].sum())
    table["title"] = [cards[name].title for name in table.index]
    table["parameters"] = [cards[name].parameters or float("nan") for name in table.index]
    for view, (_, how) in VIEWS.items():
        table[view] = how(scores)
    table["rank"] = table["overall"].rank(ascending=False, method="min").astype("Int64")
    order = table.reset_index().sort_values(
        ["rank", "have", "encoder"], ascending=[True, False, True]
    )
    return order.set_index("encoder")


def _domains(scores: Scores) -> pd.DataFrame:
    names = ["domain", "regime", "encoder", "relation", "score", "rank", "have", "expected"]
    parts = []
    for domain in scores.relations.index:
        for regime, chosen in _REGIMES.items():

            def here(groups: pd.DataFrame, domain: str = domain, chosen: Where = chosen) -> Any:
                return chosen(groups) & (groups["domain"] == domain)

            inside = here(scores.groups).to_numpy()
            if not inside.any():
                continue
            table = pd.DataFrame({"encoder": scores.encoders, "domain": domain, "regime": regime})
            table["relation"] = scores.relations.loc[domain].to_numpy()
            table["have"] = scores.columns["have"][inside].sum(axis=0).astype(int)
            table["expected"] = int(scores.groups["draws"][inside].sum())
            table["score"] = average(scores, IN_DOMAIN, where=here).to_numpy()
            table["rank"] = table["score"].rank(ascending=False, method="min").astype("Int64")
            ordered = table[table["have"] > 0].sort_values(
                ["rank", "have", "encoder"], ascending=[True, False, True]
            )
            parts.append(ordered[names])
    return pd.concat(parts, ignore_index=True)


def _results(values: pd.DataFrame, study: Study) -> pd.DataFrame:
    parts = []
    for metric in study.metrics.values():
        groups = values[metric].groupby(level=["encoder", "task", "budget"], sort=False)
        part = groups.agg(mean="mean", std="std", have="count", draws="size")
        there = values["marked"] & values[metric].notna()
        part["marked"] = there.groupby(level=["encoder", "task", "budget"], sort=False).sum()
        parts.append(part.reset_index().assign(metric=metric))
    results = pd.concat(parts, ignore_index=True)
    results.loc[results["have"] < results["draws"], ["mean", "std"]] = None
    by = ["task", "metric", "budget"]
    results["rank"] = results.groupby(by)["mean"].rank(ascending=False, method="min")
    results["ranked"] = results.groupby(by)["mean"].transform("count")
    return results[results["have"] > 0].reset_index(drop=True)


def _findings(values: pd.DataFrame, results: pd.DataFrame, study: Study) -> pd.DataFrame:
    """One row per comparison.

    Returns:
        Columns finding (its number), a, b, task, budget, metric, expected (above, below), n
        (paired draws), difference (a - b), low and high (its 95 % interval), rank_a, rank_b and
        ranked (among the encoders with all draws), and verdict: ``as claimed``, ``opposite``,
        ``not resolved`` (the interval holds 0) or ``no data``.
    """
    ranks = results.set_index(["encoder", "task", "budget", "metric"])[["rank", "ranked"]]
    ranks = ranks.sort_index()
    draws = {metric: values[metric].unstack("draw") for metric in study.metrics.values()}
    rows = []
    for number, finding in enumerate(study.findings):
        for pair, task, expected in _comparisons(finding.pairs, finding.expect):
            place = (task, expected.budget, expected.metric)
            row = _compare(draws[expected.metric], pair, task, expected)
            row["rank_a"] = ranks["rank"].get((pair.a, *place))
            row["rank_b"] = ranks["rank"].get((pair.b, *place))
            row["ranked"] = ranks["ranked"].get((pair.a, *place))
            rows.append({"finding": number, **row})
    return pd.DataFrame(rows, columns=_FINDING_COLUMNS)


_FINDING_COLUMNS = ["finding", "a", "b", "task", "budget", "metric", "expected", "n", "difference"]
_FINDING_COLUMNS += ["low", "high", "rank_a", "rank_b", "ranked", "verdict"]


def _comparisons(
    pairs: list[Pair], expectations: list[Expectation]
) -> Iterator[tuple[Pair, str, Expectation]]:
    for expected in expectations:
        for pair in pairs:
            for task in pair.tasks:
                yield pair, task, expected


def _compare(draws: pd.DataFrame, pair: Pair, task: str, expected: Expectation) -> dict[str, Any]:
    a, b = ((name, task, expected.budget) for name in (pair.a, pair.b))
    own = [float(x) - float(y) for x, y in zip(draws.xs(a), draws.xs(b), strict=True)]
    differences = pd.Series(own).dropna()
    low, high = _interval(differences)
    if pd.isna(low):
        verdict = "no data"
    elif low <= 0 <= high:
        verdict = "not resolved"
    else:
        verdict = "as claimed" if (low > 0) == (expected.a == "above") else "opposite"
    return {
        "a": pair.a,
        "b": pair.b,
        "task": task,
        "budget": expected.budget,
        "metric": expected.metric,
        "expected": expected.a,
        "n": len(differences),
        "difference": differences.mean(),
        "low": low,
        "high": high,
        "verdict": verdict,
    }


def _interval(differences: pd.Series[float]) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t; null for fewer than two values."""
    from scipy.special import stdtrit  # late: a board without findings needs no scipy

    if (n := len(differences)) < 2:
        return float("nan"), float("nan")
    half = float(stdtrit(n - 1, 0.975)) * float(differences.std()) / n**0.5
    mean = float(differences.mean())
    return mean - half, mean + half
