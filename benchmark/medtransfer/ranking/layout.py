"""Which records stand on which board: protocols x suites, laid out cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from medtransfer.ranking.frame import KINDS, frame, most_common
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
        families = self.rows["split"].map(split_family)
        splits = {str(task): sorted(set(own)) for task, own in families.groupby(self.rows["task"])}
        results = {name: self._results(own) for name, own in self.submissions.items()}
        return resample(results, self.every, splits)

    def _results(self, submission: Submission) -> Results:
        """The records that count, with the folders of their arrays."""
        own = self.rows[self.rows["encoder"] == submission.card.name]
        keys = ["task", "fingerprint", "protocol_fingerprint", "adaptation"]
        counted = set(own[keys].drop_duplicates().itertuples(index=False, name=None))
        found: dict[Cell, tuple[Record, Path]] = {}
        for record, folder in zip(submission.records, submission.folders, strict=False):
            task, made = record.task, record.protocol.fingerprint
            if (task.name, task.fingerprint, made, record.adaptation) in counted:
                found[record.cell] = record, folder
        return found


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
        own = rows[rows["protocol"] == name]
        known = {**(kinds or {}), **most_common(own, "kind")}
        for key, suite in _shown(suites, set(own["task"])).items():
            for kind, chosen in _by_kind(suite, known).items():
                part = own[own["task"].isin(chosen.tasks)]
                yield _one(name, protocols.get(name), (key, kind, chosen), part, encoders, known)


def _one(
    name: str,
    protocol: Protocol | None,
    suite: tuple[str, str, Suite],
    rows: pd.DataFrame,
    submissions: Mapping[str, Submission],
    kinds: Mapping[str, str],
) -> Layout:
    key, kind, chosen = suite
    stale = rows["protocol_fingerprint"] != expected_fingerprints(rows, protocol)
    current = rows[~stale]
    foreign = current["fingerprint"] != current["task"].map(most_common(current, "fingerprint"))
    valid = current[~foreign]
    planned = expected_cells(chosen, kinds, protocol) if protocol else []
    optional = expected_cells(chosen, kinds, protocol, optional=True) if protocol else []
    cells = applicable(planned, valid)
    return Layout(
        protocol=name,
        title=protocol.title if protocol else "",
        suite=key,
        kind=kind,
        submissions={name: submissions[name] for name in sorted(current["encoder"].unique())},
        rows=valid,
        stale=rows[stale],
        foreign=current[foreign],
        planned=planned,
        cells=cells,
        every=[*cells, *applicable(optional, valid)],
    )


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
