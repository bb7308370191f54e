"""Which records stand on which board: protocols x suites, laid out cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path

import pandas as pd

from medtransfer.ranking.frame import IN_DOMAIN, KINDS, frame, most_common
from medtransfer.ranking.resampling import Replicates, Results, resample
from medtransfer.ranking.submissions import Submission
from medtransfer.ranking.table import (
    applicable,
    broad_kind,
    expected_cells,
    expected_fingerprints,
    grid,
)
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell, Record
from medtransfer.specs.task import Suite, split_family

__all__ = ["OTHER_TASKS", "Layout", "lay_out"]

OTHER_TASKS = "other tasks"


@dataclass(frozen=True)
class Layout:
    """The records of one board.

    Attributes:
        protocol: Name of the protocol.
        title: Its title; empty when no shipped one has that name.
        suite: Name of the suite.
        kind: Kind of its tasks where the board has only these; else empty.
        submissions: By encoder, sorted.
        rows: Rows of `frame` that count.
        stale: Rows made under another version of the protocol.
        foreign: Rows made with other data than most.
        planned: The ranked cells of the protocol on the suite.
        cells: Those that apply.
        every: These and the cells of the optional adaptations.
        drawn: Gives the replicates of all layouts of the protocol, which are drawn once.
    """

    protocol: str
    title: str
    suite: str
    kind: str
    submissions: Mapping[str, Submission]
    rows: pd.DataFrame = field(repr=False)
    stale: pd.DataFrame = field(repr=False)
    foreign: pd.DataFrame = field(repr=False)
    planned: Sequence[Cell] = field(repr=False)
    cells: Sequence[Cell] = field(repr=False)
    every: Sequence[Cell] = field(repr=False)
    drawn: Callable[[], Replicates] = field(repr=False)

    @property
    def encoders(self) -> list[str]:
        """Names of the encoders with current records, sorted."""
        return list(self.submissions)

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """Table of `grid` of the cells that decide the rank."""
        return grid(self.rows, self.cells, self.encoders)

    @cached_property
    def whole(self) -> pd.DataFrame:
        """Table of `grid` of every cell."""
        return grid(self.rows, self.every, self.encoders)

    @cached_property
    def replicates(self) -> Replicates:
        """Bootstrap replicates of every cell."""
        return self.drawn().select(self.every)


def lay_out(
    submissions: Sequence[Submission],
    suites: Mapping[str, Suite],
    protocols: Mapping[str, Protocol],
    *,
    kinds: Mapping[str, str] | None = None,
) -> Iterator[Layout]:
    """One layout per protocol and suite, in the order of the two mappings.

    A suite that has classification and segmentation tasks gets one for each, too: an encoder that
    gives no feature maps has its own on the one of classification.

    A suite has a layout when each of its tasks has records; one with fewer, only when these would
    be on no board otherwise. Tasks in no suite share a last one of each protocol.

    Args:
        submissions: The encoders.
        suites: By name.
        protocols: By name.
        kinds: Kind of each task by its card, for those that nobody ran.
    """
    rows = frame(submissions)
    encoders = {submission.card.name: submission for submission in submissions}
    unknown = sorted(set(rows["protocol"]) - set(protocols))
    for name in [*protocols, *unknown]:
        protocol, own = protocols.get(name), rows[rows["protocol"] == name]
        known = {**(kinds or {}), **most_common(own, "kind")}
        stale = own["protocol_fingerprint"] != expected_fingerprints(own, protocol)
        current = own[~stale]
        foreign = current["fingerprint"] != current["task"].map(most_common(current, "fingerprint"))
        valid = current[~foreign]
        drawn = cache(partial(_draw, valid, encoders))
        for key, suite in _shown(suites, set(own["task"])).items():
            for kind, chosen in _by_kind(suite, known).items():
                planned = expected_cells(chosen, known, protocol) if protocol else []
                optional = (
                    expected_cells(chosen, known, protocol, optional=True) if protocol else []
                )
                part, of_suite, stale_part, foreign_part = (
                    table[table["task"].isin(chosen.tasks)]
                    for table in (valid, current, own[stale], current[foreign])
                )
                cells = applicable(planned, part)
                yield Layout(
                    protocol=name,
                    title=protocol.title if protocol else "",
                    suite=key,
                    kind=kind,
                    submissions={e: encoders[e] for e in sorted(of_suite["encoder"].unique())},
                    rows=part,
                    stale=stale_part,
                    foreign=foreign_part,
                    planned=planned,
                    cells=cells,
                    every=[*cells, *applicable(optional, part)],
                    drawn=drawn,
                )


def _draw(rows: pd.DataFrame, submissions: Mapping[str, Submission]) -> Replicates:
    """Replicates of every record that counts."""
    inside = rows[rows["split"] == IN_DOMAIN]
    names = list(Cell._fields)
    cells = [Cell(*key) for key in inside[names].drop_duplicates().itertuples(index=False)]
    families = rows["split"].map(split_family)
    splits = {str(task): sorted(set(own)) for task, own in families.groupby(rows["task"])}
    return resample(
        {
            str(encoder): _results(submissions[str(encoder)], own)
            for encoder, own in inside.groupby("encoder")
        },
        [cell for cell in cells if cell.task in splits],
        splits,
    )


def _results(submission: Submission, rows: pd.DataFrame) -> Results:
    """The records that count, with the folders of their arrays."""
    keys = ["task", "fingerprint", "protocol_fingerprint", "adaptation"]
    counted = set(rows[keys].drop_duplicates().itertuples(index=False, name=None))
    found: dict[Cell, tuple[Record, Path]] = {}
    for record, folder in zip(submission.records, submission.folders, strict=False):
        task, made = record.task, record.protocol.fingerprint
        if (task.name, task.fingerprint, made, record.adaptation) in counted:
            found[record.cell] = record, folder
    return found


def _by_kind(suite: Suite, kinds: Mapping[str, str]) -> dict[str, Suite]:
    """The suite itself, and its tasks of each kind where there are several.

    A task of unknown kind is in each of them, where nobody is complete without it.
    """
    found = {task: broad_kind(kinds[task]) for task in suite.tasks if task in kinds}
    if len(set(found.values())) < 2:
        return {"": suite}
    parts = {kind: [t for t in suite.tasks if found.get(t, kind) == kind] for kind in KINDS}
    return {"": suite} | {
        kind: suite.model_copy(update={"tasks": tasks}) for kind, tasks in parts.items()
    }


def _shown(suites: Mapping[str, Suite], tasks: set[str]) -> dict[str, Suite]:
    """The suites that are shown when there are records of ``tasks``."""
    chosen = {name for name, suite in suites.items() if tasks.issuperset(suite.tasks)}
    left = tasks.difference(*(suites[name].tasks for name in chosen))
    for name, suite in suites.items():
        if left.intersection(suite.tasks):
            chosen.add(name)
            left = left.difference(suite.tasks)
    shown = {name: suite for name, suite in suites.items() if name in chosen}
    return shown | ({OTHER_TASKS: Suite(tasks=sorted(left))} if left else {})
