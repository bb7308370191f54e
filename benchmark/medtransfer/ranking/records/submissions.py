"""Submissions: an encoder's card and its records, read from folders. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medtransfer.core.documents import read_yaml, refuse_links
from medtransfer.core.errors import InputError
from medtransfer.ranking.records.parallel import map_in_processes, without_collection
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.record import Record, first_settled, iterate_records
from medtransfer.specs.score import FILE as SCORES
from medtransfer.specs.score import ScoreRecord, read_scores
from medtransfer.specs.verification import Status, read_status

PUBLISHED = "published"
"""The folder beside the submissions with results that others published."""

COSTS = [
    "adaptation_flops",
    "inference_flops_per_image",
    "parameters",
    "trainable_parameters",
    "seconds",
    "peak_memory_bytes",
    "energy_joules",
]

_KEY = ["task", "budget", "adaptation", "draw", "sha256", "protocol_fingerprint", "fingerprint"]
_NAMES = ["sha256", "protocol", "protocol_fingerprint", "task", "fingerprint", "domain", "kind"]
_NAMES += ["metric", "adaptation", "budget", "status", "device", "folder"]
_SCORE_NAMES = ["sha256", "protocol", "task", "fingerprint", "score", "made"]
_TYPES = {"error": object, "key": object, "draw": np.int64, "chance": float}
_TYPES |= dict.fromkeys(COSTS, float)
_read_costs = attrgetter(*COSTS)


@dataclass(frozen=True)
class Submission:
    """Records of one encoder as columns: a board has hundreds of encoders with thousands each.

    Attributes:
        card: The encoder's.
        cells: One row a record, at most one of a cell, protocol and task fingerprint: sha256 (the
            encoder's identity), protocol, protocol_fingerprint, task, fingerprint, domain, kind,
            metric (the primary one's name), chance, adaptation, budget, draw, status, error, the
            costs, device, and where its bootstrap replicates are: folder and key, null without.
        values: The primary metric: cell (its row), split and value (null where it is undefined);
            one row for each test split of a record with status ``ok``.
        status: Whether `bench verify --rerun` passed on the files as they are.
        scores: Transferability scores, one row each: sha256, protocol, task, fingerprint (of the
            task), score, made (hash of its fixed values), value (null where it is undefined),
            flops and seconds.
    """

    card: EncoderCard
    cells: pd.DataFrame
    values: pd.DataFrame
    status: Status = "declared"
    scores: pd.DataFrame = field(default_factory=lambda: _tabulate_scores([]))

    @property
    def folders(self) -> list[str]:
        """Folders of its records: several when submissions were merged."""
        return list(self.cells["folder"].cat.categories)

    @classmethod
    def of(
        cls,
        card: EncoderCard,
        records: Iterable[Record],
        *,
        folder: Path | None = None,
        status: Status = "declared",
        scores: Iterable[ScoreRecord] = (),
    ) -> Submission:
        """Take records from memory.

        Args:
            card: The encoder's.
            records: Of several of one cell and origin, the first settled one stands.
            folder: Where their arrays are, if anywhere.
            status: Whether they were verified.
            scores: Transferability scores.
        """
        rows, values = [], []
        for number, record in enumerate(records):  # read one at a time, to save memory
            rows.append(_row(record, folder))
            if record.status == "ok":
                metric = record.task.metric
                values += [
                    (name, number, metrics.get(metric)) for name, metrics in record.metrics.items()
                ]
        cells = _tabulate(rows, _NAMES, _TYPES)
        splits = _tabulate(values, ["split"], {"cell": np.int64, "value": float})
        return cls(card, *_first_settled(cells, splits), status, _tabulate_scores(scores))


def load_submissions(
    folders: Sequence[Path], *, processes: int = 1, tasks: Collection[str] | None = None
) -> list[Submission]:
    """Read every ``<folder>/<encoder>/{encoder.yaml,records.jsonl}``, sorted by encoder.

    An encoder may stand in several folders, e.g. the shipped submissions and one's own results.
    Its records are then merged: the first settled record of a cell stands, in the order given.

    Args:
        folders: Of submissions.
        processes: How many read, where there is much to read.
        tasks: Only encoders with records of these tasks, only these records, and neither
            verification nor transferability scores: all that a comparison needs.

    Raises:
        InputError: For a missing folder or card, a wrong record, records of another encoder than
            the card's, or one name that stands for two encoders.
    """
    paths = [path for folder in folders for path in _encoder_folders(folder)]
    parts: dict[str, list[tuple[Path, Submission]]] = {}
    for path, submission in zip(paths, _load_all(paths, processes, tasks), strict=True):
        if submission is not None:
            parts.setdefault(submission.card.name, []).append((path, submission))
    return [_merge(parts[name]) for name in sorted(parts)]


def load_submission(path: Path) -> tuple[EncoderCard, list[Record]]:
    """Read one ``<encoder>/{encoder.yaml,records.jsonl}``: its card and records.

    Raises:
        InputError: For a missing or wrong card, a record that is wrong or another encoder's, or a
            link.
    """
    card, records = _open(path)
    return card, first_settled(records)


_MUCH = 2**25  # bytes of ledgers; fewer are read faster than a second process starts


def _load_all(
    paths: Sequence[Path], processes: int, tasks: Collection[str] | None
) -> Iterable[Submission | None]:
    ledgers = [path / "records.jsonl" for path in paths]
    size = sum(ledger.stat().st_size for ledger in ledgers if ledger.is_file())
    return map_in_processes(
        partial(_load, tasks=tasks), paths, processes=processes if size > _MUCH else 1
    )


def _load(path: Path, *, tasks: Collection[str] | None) -> Submission | None:
    card, records = _open(path, tasks)
    with without_collection():
        if tasks is not None:
            chosen = list(records)
            return Submission.of(card, chosen, folder=path) if chosen else None
        scores = _own_scores(path, card.name)
        return Submission.of(card, records, folder=path, status=read_status(path), scores=scores)


def _open(path: Path, tasks: Collection[str] | None = None) -> tuple[EncoderCard, Iterator[Record]]:
    card_path = path / "encoder.yaml"
    if (path / "study.yaml").is_file():
        raise InputError(
            f"{path}: is a published study; its place is in a folder called {PUBLISHED}"
        )
    if not card_path.is_file():
        raise InputError(f"{path}: holds no encoder.yaml; a submission's folder needs its card")
    refuse_links(path)
    card = EncoderCard.parse(read_yaml(card_path), origin=str(card_path))
    return card, _own_records(path / "records.jsonl", card.name, tasks)


def _own_records(ledger: Path, encoder: str, tasks: Collection[str] | None) -> Iterator[Record]:
    for record in iterate_records(ledger, tasks=tasks):
        if record.encoder.name != encoder:
            raise InputError(
                f"{ledger}: encoder.name: '{record.encoder.name}' in a record ({record.cell}), "
                f"but '{encoder}' in encoder.yaml"
            )
        yield record


def _own_scores(folder: Path, encoder: str) -> list[ScoreRecord]:
    scores = read_scores(folder)
    for record in scores:
        if record.encoder.name != encoder:
            raise InputError(
                f"{folder / SCORES}: encoder.name: '{record.encoder.name}' in a score of "
                f"{record.task.name}, but '{encoder}' in encoder.yaml"
            )
    return scores


def _encoder_folders(folder: Path) -> list[Path]:
    """Folders of encoders: not hidden ones, Python's own, and those of published studies."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder of submissions; say where they are with --submissions"
        )
    if (folder / "encoder.yaml").is_file():
        raise InputError(
            f"{folder}: is one submission; --submissions takes the folder that it is in, "
            f"{folder.resolve().parent}"
        )
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name != PUBLISHED and not path.name.startswith((".", "__"))
    )


def _row(record: Record, folder: Path | None) -> tuple[Any, ...]:
    """The names, then the other columns of `Submission.cells`."""
    task, protocol, cost = record.task, record.protocol, record.cost
    spent = _read_costs(cost) if cost else (None,) * len(COSTS)
    return (
        record.encoder.sha256,
        protocol.name,
        protocol.fingerprint,
        task.name,
        task.fingerprint,
        task.domain,
        task.kind,
        task.metric,
        record.adaptation,
        record.budget,
        record.status,
        cost.device if cost else None,
        str(folder) if folder else None,
        record.error,
        record.replicates.key if record.replicates else None,
        record.draw,
        task.chance,
        *spent,
    )


def _tabulate(
    rows: Sequence[tuple[Any, ...]], names: Sequence[str], types: Mapping[str, Any]
) -> pd.DataFrame:
    """A table whose names are categories; null ones stay null."""
    table = pd.DataFrame(rows, columns=[*names, *types], dtype=object)
    columns: dict[str, Any] = {name: table[name].astype(kind) for name, kind in types.items()}
    for name in names:
        values = table[name].to_numpy()
        categories = pd.Index(sorted(set(values) - {None}), dtype=object)
        columns[name] = pd.Categorical(values, categories=categories)
    return pd.DataFrame(columns)


def _tabulate_scores(scores: Iterable[ScoreRecord]) -> pd.DataFrame:
    """The columns of `Submission.scores`."""
    rows = [
        (
            score.encoder.sha256,
            score.protocol,
            score.task.name,
            score.task.fingerprint,
            score.score,
            score.fingerprint,
            np.nan if score.value is None else score.value,
            float(score.flops),
            score.seconds,
        )
        for score in scores
    ]
    table = pd.DataFrame(rows, columns=[*_SCORE_NAMES, "value", "flops", "seconds"])
    kinds = {"value": float, "flops": float, "seconds": float}
    return table.astype({**dict.fromkeys(_SCORE_NAMES, object), **kinds})


def _merge(parts: list[tuple[Path, Submission]]) -> Submission:
    """Join the parts of one encoder; the card of the first stands."""
    card = parts[0][1].card
    identities = {sha: path for path, part in parts for sha in part.cells["sha256"].unique()}
    if len(identities) > 1:
        paths = " and ".join(str(path) for path in dict.fromkeys(sorted(identities.values())))
        raise InputError(
            f"{paths}: encoder.sha256: records of different weights or preprocessing under the "
            f"one name '{card.name}'; give each encoder its own name"
        )
    if len(parts) == 1:
        return parts[0][1]
    statuses = {part.status for _, part in parts}
    status: Status = "changed" if "changed" in statuses else "declared"
    cells, values = stack([part for _, part in parts])
    scores = pd.concat([part.scores for _, part in parts], ignore_index=True)
    return Submission(
        card,
        *_first_settled(cells, values),
        "verified" if statuses == {"verified"} else status,
        scores.drop_duplicates(_SCORE_NAMES, ignore_index=True),
    )


def stack(submissions: Sequence[Submission]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells and the values of at least one submission, in their order, numbered anew."""
    starts = np.cumsum([0, *(len(submission.cells) for submission in submissions)])
    values = [
        submission.values.assign(cell=submission.values["cell"] + start)
        for start, submission in zip(starts, submissions, strict=False)
    ]
    return _concatenate([submission.cells for submission in submissions]), _concatenate(values)


def _concatenate(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate like `pandas.concat`, but keep names categorical where categories differ."""
    columns = {
        name: _join_names([table[name].array for table in tables])
        if isinstance(tables[0][name].dtype, pd.CategoricalDtype)
        else np.concatenate([table[name].to_numpy() for table in tables])
        for name in tables[0].columns
    }
    return pd.DataFrame(columns)


def _join_names(parts: Sequence[Any]) -> pd.Categorical:
    # pandas' union_categoricals refuses categories of different types.
    categories = pd.Index(sorted(set().union(*(part.categories for part in parts))), dtype=object)
    # One more place, which the code of a null, -1, leads to.
    places = [np.append(categories.get_indexer(part.categories), -1) for part in parts]
    codes = [place[part.codes] for place, part in zip(places, parts, strict=True)]
    return pd.Categorical.from_codes(np.concatenate(codes), categories)


def _first_settled(cells: pd.DataFrame, values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep one record of a cell, as `specs.record.first_settled` does."""
    if not cells.duplicated(_KEY).any():
        return cells, values
    failed = cells["status"] == "failed"
    # Settled ones first to last, then those that failed last to first.
    order = [*cells.index[~failed], *cells.index[failed][::-1]]
    kept = cells.loc[order].drop_duplicates(_KEY).index.sort_values()
    number = pd.Series(np.arange(len(kept)), index=kept)
    values = values[values["cell"].isin(kept)]
    values = values.assign(cell=values["cell"].map(number))
    return cells.loc[kept].reset_index(drop=True), values.reset_index(drop=True)
