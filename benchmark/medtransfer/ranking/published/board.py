"""Boards of published studies: results that others printed, ranked by the rules of this benchmark.

Nothing on them was measured here, and they are never mixed with measured results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.core.documents import refuse_links
from medtransfer.core.errors import InputError
from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.boards.columns import TRANSFER, Column, few_shot, full
from medtransfer.ranking.boards.tables import (
    rank_scores,
    sort_by_rank,
    tabulate_results,
    tabulate_scores,
)
from medtransfer.ranking.predictions.score_validation import ScoreValidation
from medtransfer.ranking.published.findings import compare_findings
from medtransfer.ranking.published.study import (
    PublishedMetric,
    PublishedRecord,
    Study,
    load_study,
    read_published,
)
from medtransfer.ranking.records.filling import relate
from medtransfer.ranking.records.grid import GROUP, Grid, Split, Where, average, largest
from medtransfer.ranking.statistics.rank_statistics import RANK_STATISTICS
from medtransfer.ranking.statistics.source_domains import SourceDomains
from medtransfer.ranking.statistics.uncertainty import Significance
from medtransfer.specs.split_name import IN_DOMAIN

_REGIMES = {"few_shot": ("few-shot", few_shot), "full": ("full", full)}


@dataclass(frozen=True)
class Published:
    """Study with its records, at most one a cell."""

    study: Study
    records: tuple[PublishedRecord, ...]


@dataclass(frozen=True)
class PublishedBoard(Board):
    """All encoders of one study.

    In ``table`` a score is null unless the encoder has every cell of it, so an encoder without a
    rank may have scores of some parts. ``results`` has rows for each metric of the study, the
    primary one of a target first, with further columns marked (how many results bear a mark), rank
    (by the mean) and ranked (among how many).

    Attributes:
        study: The study.
        domains: One row per target domain, regime (few-shot, full) and encoder with any cell
            there, best first: relation, score, rank, have and expected. All of them are over the
            same targets, so intra and inter stand side by side.
        findings: One row per comparison of the study's findings; from `compare_findings`.
    """

    study: Study
    domains: pd.DataFrame
    findings: pd.DataFrame

    @property
    def primary(self) -> pd.DataFrame:
        """Select the rows of ``results`` of each target's primary metric."""
        metrics = {name: target.metric for name, target in self.study.target_cards.items()}
        return self.results[self.results["metric"] == self.results["task"].map(metrics)]

    def by_metric(self, task: str) -> dict[str, pd.DataFrame]:
        """The rows of ``results`` of one target, by the name of the metric; the primary first."""
        primary = self.study.target_cards[task].metric
        rows = self.results[self.results["task"] == task]
        return {
            str(metric) + " (primary)" * (metric == primary): part
            for metric, part in rows.groupby("metric", sort=False)
        }


def load_published(folder: Path) -> list[Published]:
    """Read every ``<folder>/<study>/{study.yaml,records.jsonl}``, sorted by study.

    Without the folder there are no studies.

    Raises:
        InputError: For a missing or wrong file, a link, or a folder under another name than its
            study.
    """
    if not folder.is_dir():
        return []
    studies = []
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
        studies.append(Published(study, tuple(records)))
    return studies


def published_board(published: Published) -> PublishedBoard:
    """Rank the encoders of a study and recompute its findings.

    Scores are those of measured boards: of each target's primary metric, averaged over draws, then
    budgets, then targets, then domains.
    """
    study = published.study
    targets = study.target_cards
    grid, _ = _lay_out(published, {name: target.metric for name, target in targets.items()})
    columns = _columns(study)
    cards = study.encoder_cards
    table = tabulate_scores(grid, columns, {name: card.title for name, card in cards.items()})
    table["rank"] = rank_scores(table[IN_DOMAIN])
    table["init"] = [card.pretraining.init for card in cards.values()]
    table[RANK_STATISTICS] = np.nan  # a study has neither test items nor replicates
    results = _tabulate_metrics(published)
    empty = pd.DataFrame(index=pd.Index([], name="encoder"))
    return PublishedBoard(
        protocol="",
        title=study.title,
        about="",
        tasks={name: target.title for name, target in targets.items()},
        suite=study.name,
        kind="",
        columns=columns,
        table=sort_by_rank(table),
        results=results,
        adaptations=empty,
        significance=Significance(len(targets), None, empty),
        source_domains=SourceDomains(empty, {}, 0, float("nan"), None),
        validation=ScoreValidation.nothing(),
        notes=tuple(study.remarks),
        study=study,
        domains=_tabulate_domains(grid, table),
        findings=compare_findings(study, published.records, results),
    )


def _columns(study: Study) -> tuple[Column, ...]:
    """The score, its parts by relation and by domain and regime, and the parameters."""
    targets = study.targets.values()
    budgets = {target.domain: set[str]() for target in targets}
    for target in targets:
        budgets[target.domain] |= {
            "full" if name == "full" else "few_shot" for name in target.budgets
        }
    return (
        Column(IN_DOMAIN, "Score", partial(average, column=IN_DOMAIN)),
        *(
            replace(column, section="overall")
            for column in TRANSFER
            if column.name.startswith(("intra", "inter"))
        ),
        Column("parameters", "Parameters", partial(largest, column="parameters"), unit="count"),
        *(
            Column(
                f"{regime}_{domain}",
                f"{domain}, {title}",
                partial(average, column=IN_DOMAIN, where=partial(_is_in, domain, where)),
                section="domains",
                domain=domain,
            )
            for domain, with_budget in budgets.items()
            for regime, (title, where) in _REGIMES.items()
            if regime in with_budget
        ),
    )


def _is_in(domain: str, where: Where, groups: pd.DataFrame) -> pd.Series[bool]:
    return where(groups) & (groups["domain"] == domain)


def _lay_out(
    published: Published, metrics: Mapping[str, PublishedMetric]
) -> tuple[Grid, NDArray[np.int64]]:
    """Return one metric of each target as a grid, with the number of marked results.

    Args:
        published: The study.
        metrics: By target.
    """
    study = published.study
    encoders, targets, draws = study.encoder_cards, study.target_cards, len(study.draws)
    groups = pd.DataFrame(
        [
            (name, budget, study.adaptation, target.domain, metrics[name], target.chance, draws)
            for name, target in targets.items()
            for budget in study.ordered_budgets
            if budget in target.budgets
        ],
        columns=[*GROUP, "domain", "metric", "chance", "draws"],
    )
    keys = zip(groups["task"], groups["budget"], strict=True)
    rows = {key: row for row, key in enumerate(keys)}
    columns = {name: column for column, name in enumerate(encoders)}
    values = np.full((len(groups), draws, len(encoders)), np.nan)
    marks = np.zeros(values.shape, np.int64)
    for record in published.records:
        if (value := record.metrics.get(metrics[record.task])) is not None:
            at = rows[record.task, record.budget], record.draw, columns[record.encoder]
            values[at], marks[at] = value, bool(record.marks)
    # Compensated sums: a mean of numbers with few digits is often half-way between two roundings.
    by_group = pd.DataFrame(values.reshape(-1, len(encoders))).groupby(
        np.repeat(np.arange(len(groups)), draws)
    )
    have = by_group.count()
    mean, std = (how().where(have == draws).to_numpy() for how in (by_group.mean, by_group.std))
    split = Split(mean, std, have.to_numpy())
    chance = groups["chance"].to_numpy(float)[:, None]
    parameters = [card.parameters or np.nan for card in encoders.values()]
    nothing = pd.DataFrame(columns=["encoder", "group"])
    grid = Grid(
        groups=groups,
        encoders=list(encoders),
        columns={
            IN_DOMAIN: (split.mean - chance) / (1 - chance),
            "parameters": np.repeat(np.array([parameters], float), len(groups), axis=0),
        },
        relations=relate({name: card.pretraining for name, card in encoders.items()}, groups),
        splits={IN_DOMAIN: split},
        diverged=np.zeros_like(split.have),
        failures=nothing,
        devices=nothing,
    )
    return grid, marks.sum(axis=1)


def _tabulate_metrics(published: Published) -> pd.DataFrame:
    """Results by every metric of the study; the primary one of each target first."""
    targets = published.study.target_cards
    parts = []
    for metric in published.study.metrics.values():
        grid, marks = _lay_out(published, dict.fromkeys(targets, metric))
        unknown = np.full((2, *marks.shape), np.nan)
        parts.append(tabulate_results(grid, unknown).assign(marked=marks.ravel()))
    results = pd.concat(parts, ignore_index=True)
    means = results.groupby(["task", "metric", "budget"])["mean"]
    results = results.assign(
        rank=means.rank(ascending=False, method="min"), ranked=means.transform("count")
    )
    primary = results["task"].map({name: target.metric for name, target in targets.items()})
    order = [~(results["metric"] == primary), results["task"].map(list(targets).index)]
    return results.iloc[np.lexsort(order)].reset_index(drop=True)


def _tabulate_domains(grid: Grid, table: pd.DataFrame) -> pd.DataFrame:
    """Ranks of the encoders by domain and regime; see `PublishedBoard.domains`."""
    groups, have = grid.groups, grid.splits[IN_DOMAIN].have
    names = ["domain", "regime", "encoder", "relation", "score", "rank", "have", "expected"]
    parts = []
    for domain in grid.relations.index:
        for regime, (title, where) in _REGIMES.items():
            if f"{regime}_{domain}" not in table:
                continue
            rows = _is_in(domain, where, groups).to_numpy()
            part = pd.DataFrame({"encoder": grid.encoders, "domain": domain, "regime": title})
            part["relation"] = table[f"relation_{domain}"].to_numpy()
            part["score"] = table[f"{regime}_{domain}"].to_numpy()
            part["have"] = have[rows].sum(axis=0)
            part["expected"] = int(groups.loc[rows, "draws"].sum())
            part["coverage"] = part["have"] / part["expected"]
            part["rank"] = rank_scores(part["score"])
            parts.append(sort_by_rank(part[part["have"] > 0]).reset_index()[names])
    return pd.concat(parts, ignore_index=True)
