"""Bootstrap replicates of scores, over test items and few-shot draws.

Replicate r of every encoder is scored on the same resampled items and draws, so the replicates of
a difference are the differences of the replicates (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 8). What is resampled is decided by the names of task, split and budget
alone: neither another encoder nor the order of the submissions changes a replicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.frame import IN_DOMAIN
from medtransfer.ranking.rows import read_rows
from medtransfer.specs.base import InputError
from medtransfer.specs.record import Cell, Record

__all__ = ["REPLICATES", "Replicates", "Results", "resample", "weigh"]

REPLICATES = 1000
_FILE = "replicates.npz"

Scores = NDArray[np.float32]
Rows = Mapping[str, NDArray[np.float32]]
Results = Mapping[Cell, tuple[Record, Path]]
"""One encoder's records, each with the folder in which its arrays are."""


@dataclass(frozen=True)
class Replicates:
    """Replicates of the scores of groups of cells; a group is a task, budget and adaptation.

    Attributes:
        groups: One row a group, G of them: task, budget and adaptation.
        splits: For each encoder and test split, graded corruptions being one, the scores (G, R),
            averaged over the draws; NaN for groups of which the encoder lacks a cell or the task
            has no such split.
    """

    groups: pd.DataFrame
    splits: Mapping[str, Mapping[str, Scores]]

    def select(self, cells: Sequence[Cell]) -> Replicates:
        """Only the groups of some cells."""
        wanted = {(cell.task, cell.budget, cell.adaptation) for cell in cells}
        keys = self.groups.itertuples(index=False, name=None)
        rows = np.array([key in wanted for key in keys], dtype=bool)
        return Replicates(
            self.groups[rows].reset_index(drop=True),
            {
                encoder: {split: scores[rows] for split, scores in own.items()}
                for encoder, own in self.splits.items()
            },
        )

    def bounds(self) -> pd.DataFrame:
        """95 % intervals: encoder, split, task, budget, adaptation, low and high (scores)."""
        parts = []
        for encoder, own in self.splits.items():
            for split, scores in own.items():
                known = ~np.isnan(scores[:, 0])
                if not known.any():
                    continue
                part = self.groups[known].assign(encoder=encoder, split=split)
                part["low"], part["high"] = np.percentile(scores[known], [2.5, 97.5], axis=1)
                parts.append(part)
        names = ["encoder", "split", *self.groups.columns, "low", "high"]
        return pd.concat(parts)[names] if parts else pd.DataFrame(columns=names)

    def inside(self, encoder: str) -> Scores:
        """In-domain scores, (G, R)."""
        return self.splits[encoder][IN_DOMAIN]

    def outside(self, encoder: str) -> Scores:
        """Out-of-domain scores, (G, R): the mean over a task's other splits, NaN without any."""
        total = np.zeros_like(self.inside(encoder))
        count = np.zeros_like(total)
        for name, scores in self.splits[encoder].items():
            if name != IN_DOMAIN:
                known = ~np.isnan(scores)
                total += np.where(known, scores, 0)
                count += known
        mean: Scores = np.where(count, total / np.maximum(count, 1), np.float32(np.nan))
        return mean


def resample(
    results: Mapping[str, Results],
    cells: Sequence[Cell],
    splits: Mapping[str, Sequence[str]],
    *,
    replicates: int = REPLICATES,
) -> Replicates:
    """Draw replicates of what the encoders have, where all draws of a group are there.

    Items: each of a task's test splits takes one of its stored replicates at random, the same for
    all cells and encoders. Draws: of D draws of a budget D - 1 are taken with replacement, so that
    the variance of their mean is estimated without bias (Rao and Wu, "Resampling Inference with
    Complex Survey Data", JASA 1988); a single draw stays.

    Args:
        results: By encoder.
        cells: The cells of a board.
        splits: The test splits of each task, graded corruptions being one.
        replicates: Number R of replicates.

    Raises:
        InputError: For arrays that a record names and that are not there.
    """
    blocks: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        blocks.setdefault((cell.task, cell.budget, cell.adaptation), []).append(cell)
    groups = pd.DataFrame(list(blocks), columns=["task", "budget", "adaptation"])
    names = sorted({name for cell in cells for name in splits.get(cell.task, ())})
    chosen_items, chosen_draws = cache(_choose_items), cache(_choose_draws)
    found: dict[str, dict[str, Scores]] = {}
    for encoder, own in results.items():
        folders = {folder for _, folder in own.values()}
        archives = {folder: _open(folder) for folder in folders if (folder / _FILE).is_file()}
        scores = {name: np.full((len(blocks), replicates), np.nan, np.float32) for name in names}
        for row, ((task, budget, _), draws) in enumerate(blocks.items()):
            if not all(cell in own and _usable(*own[cell], archives) for cell in draws):
                continue
            draws = sorted(draws, key=lambda cell: cell.draw)
            chosen = chosen_draws(task, budget, draws=len(draws), replicates=replicates)
            for name in splits[task]:
                stored = _stack([_read(own[cell], name, archives) for cell in draws])
                items = chosen_items(task, name, stored.shape[1], replicates=replicates)
                scores[name][row] = stored[chosen, items[:, None]].mean(axis=1)
        found[encoder] = scores
    return Replicates(groups, found)


def weigh(groups: pd.DataFrame, domains: Mapping[str, str]) -> NDArray[np.float64]:
    """What each group counts in the mean over groups, then tasks, then domains: (G,).

    Args:
        groups: Of `Replicates`, or some of its rows.
        domains: Of each task.
    """
    tasks = groups["task"]
    domain = tasks.map(dict(domains))
    per_task = tasks.map(tasks.value_counts())
    per_domain = domain.map(tasks.groupby(domain).nunique())
    return np.asarray(1 / (per_task * per_domain * domain.nunique()), dtype=np.float64)


def _usable(record: Record, folder: Path, there: Container[Path]) -> bool:
    """Whether a cell has replicates; the submissions that are installed come without arrays."""
    if record.status == "diverged":
        return True
    return record.status == "ok" and record.replicates is not None and folder in there


def _choose_items(task: str, split: str, stored: int, *, replicates: int) -> NDArray[np.intp]:
    """Which of the stored replicates of a split are taken, (R,)."""
    return _random("items", task, split).integers(stored, size=replicates)


def _choose_draws(task: str, budget: str, *, draws: int, replicates: int) -> NDArray[np.intp]:
    """Which draws are taken, (R, D - 1); the adaptations of a budget share its few shots."""
    if draws == 1:
        return np.zeros((replicates, 1), np.intp)
    generator = _random("draws", task, budget, str(draws))
    return generator.integers(draws, size=(replicates, draws - 1))


def _random(*names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _read(result: tuple[Record, Path], split: str, archives: Mapping[Path, Rows]) -> Scores:
    """The stored replicates of one cell and split as scores, (B,); (1,) where it diverged."""
    record, folder = result
    if record.status == "diverged":  # which is chance, whatever the items
        return np.zeros(1, np.float32)
    assert record.replicates is not None
    try:
        values = archives[folder][f"{record.replicates.key}/{split}"]
    except KeyError:
        raise InputError(
            f"{folder / _FILE}: no replicates of {record.cell}, {split}, which its record names"
        ) from None
    # A replicate in which the metric is undefined says nothing; it is the mean of the others.
    unknown = np.isnan(values)
    if unknown.any():
        mean = values[~unknown].mean() if not unknown.all() else record.task.chance
        values = np.where(unknown, mean, values)
    chance = np.float32(record.task.chance)
    return (values - chance) / (1 - chance)


def _open(folder: Path) -> Rows:
    # Not the name in the record: a submission must not point to files elsewhere.
    path = folder / _FILE
    try:
        return read_rows(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _stack(rows: Sequence[Scores]) -> Scores:
    """Draws as one array (D, B); one that diverged is the same in every replicate."""
    return np.stack(np.broadcast_arrays(*rows))
