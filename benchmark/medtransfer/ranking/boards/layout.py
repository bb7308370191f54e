"""Assign records to boards: protocols x suites, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medtransfer.ranking.records.eligibility import applicable, expected_cells, is_any, is_current
from medtransfer.ranking.records.filling import broad_kind, fill_grid, find_cells
from medtransfer.ranking.records.frame import KINDS, join, most_common
from medtransfer.ranking.records.grid import GROUP, Grid, find_groups
from medtransfer.ranking.records.submissions import Submission
from medtransfer.ranking.statistics.bootstrap import Block, Replicates, resample, split_blocks
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite

OTHER_TASKS = "other tasks"


@dataclass(frozen=True)
class Layout:
    """The records of one board.

    Attributes:
        protocol: Name of the protocol.
        title: Its title; empty when no shipped one has that name.
        suite: Name of the suite.
        about: Title of the suite; may be empty.
        kind: Kind of its tasks where the board has only these; else empty.
        submissions: By encoder, sorted.
        whole: Results on every cell.
        domains: Of the tasks that anybody ran, by task.
        stale: Records made under another version of the protocol.
        foreign: Records made with other data than most.
        planned: The ranked cells of the protocol on the suite.
        cells: Those that apply.
        drawn: Gives the replicates of all layouts of the protocol, which are drawn once.
    """

    protocol: str
    title: str
    suite: str
    about: str
    kind: str
    submissions: Mapping[str, Submission]
    whole: Grid = field(repr=False)
    domains: Mapping[str, str]
    stale: pd.DataFrame = field(repr=False)
    foreign: pd.DataFrame = field(repr=False)
    planned: Sequence[Cell] = field(repr=False)
    cells: Sequence[Cell] = field(repr=False)
    drawn: Callable[[], Replicates] = field(repr=False)

    @cached_property
    def ranked(self) -> Grid:
        """Results on the cells that decide the rank."""
        return self.whole.choose(_rows(self.whole, self.cells))

    @cached_property
    def replicates(self) -> Replicates:
        """Bootstrap replicates of every cell, and of others."""
        return self.drawn()


def lay_out(
    submissions: Sequence[Submission],
    suites: Mapping[str, Suite],
    protocols: Mapping[str, Protocol],
    *,
    kinds: Mapping[str, str] | None = None,
    single: bool = False,
    processes: int = 1,
) -> Iterator[Layout]:
    """List one layout per protocol and suite, in the order of the two mappings.

    A suite that has classification and segmentation tasks gets one for each, too: an encoder that
    gives no feature maps has its own on the one of classification.

    A suite has a layout when each of its tasks has records; one with fewer, only when these would
    be on no board otherwise. Tasks in no suite share a last one of each protocol.

    Args:
        submissions: The encoders.
        suites: By name.
        protocols: By name.
        kinds: Kind of each task by its card, for those that nobody ran.
        single: Whether replicates of single groups are wanted, too.
        processes: How many draw the replicates.
    """
    if not submissions:
        return
    frame = join(submissions)
    encoders = {submission.card.name: submission for submission in submissions}
    unknown = sorted(set(frame.cells["protocol"].unique()) - set(protocols))
    for name in [*protocols, *unknown]:
        protocol, own = protocols.get(name), frame.cells[frame.cells["protocol"] == name]
        task_kinds = {**(kinds or {}), **most_common(own, "kind")}
        fresh = is_current(own, protocol)
        stale, current = own[~fresh], own[fresh]
        most = most_common(current, "fingerprint")
        usual = is_any(current, ["task", "fingerprint"], most.items())
        valid, foreign = frame.choose(current.index[usual]), current[~usual]
        boards = {
            (key, kind): (chosen, *_cells(chosen, task_kinds, protocol, valid.cells))
            for key, suite in _shown(suites, set(own["task"].unique())).items()
            for kind, chosen in _by_kind(suite, task_kinds).items()
        }
        ran = current[["task", "encoder"]].drop_duplicates()
        cards = {encoder: encoders[encoder].card for encoder in sorted(ran["encoder"].unique())}
        every = dict.fromkeys(cell for *_, cells in boards.values() for cell in cells)
        grid = fill_grid(valid, list(every), cards)
        blocks = dict.fromkeys(
            block
            for _, _, ranked, _ in boards.values()
            for block in _blocks(grid, _rows(grid, ranked))
        )
        drawn = cache(
            partial(
                _draw,
                valid.cells[find_cells(valid.cells, list(every)) >= 0],
                grid,
                blocks=list(blocks),
                single=single,
                processes=processes,
            )
        )
        domains = most_common(valid.cells, "domain")
        for (key, kind), (suite, planned, ranked, cells) in boards.items():
            tasks = set(suite.tasks)
            here = sorted(ran.loc[ran["task"].isin(tasks), "encoder"].unique())
            yield Layout(
                protocol=name,
                title=protocol.title if protocol else "",
                suite=key,
                about=suite.title,
                kind=kind,
                submissions={encoder: encoders[encoder] for encoder in here},
                whole=grid.choose(_rows(grid, cells), here),
                domains={task: domain for task, domain in domains.items() if task in tasks},
                stale=stale[stale["task"].isin(tasks)],
                foreign=foreign[foreign["task"].isin(tasks)],
                planned=planned,
                cells=ranked,
                drawn=drawn,
            )


def _cells(
    suite: Suite, kinds: Mapping[str, str], protocol: Protocol | None, records: pd.DataFrame
) -> tuple[list[Cell], list[Cell], list[Cell]]:
    """Return the ranked cells of a suite, the applicable ones, and these with optional ones."""
    if protocol is None:
        return [], [], []
    planned = expected_cells(suite, kinds, protocol)
    ranked = applicable(planned, records)
    optional = applicable(expected_cells(suite, kinds, protocol, optional=True), records)
    return planned, ranked, [*ranked, *optional]


def _rows(grid: Grid, cells: Sequence[Cell]) -> NDArray[np.intp]:
    """List the groups of some cells, in the order of the cells."""
    wanted = pd.DataFrame(cells, columns=list(Cell._fields))[GROUP].drop_duplicates()
    return find_groups(grid.groups, wanted)


def _blocks(grid: Grid, rows: NDArray[np.intp]) -> list[Block]:
    return split_blocks(rows, grid.groups["task"].iloc[rows])


def _draw(
    cells: pd.DataFrame, grid: Grid, *, blocks: Sequence[Block], single: bool, processes: int
) -> Replicates:
    used = [*Cell._fields, "status", "chance", "folder", "key"]
    by_encoder = dict(iter(cells.groupby("encoder", observed=True)[used]))
    parts = {str(name): by_encoder[name] for name in grid.encoders}
    return resample(parts, grid.groups, blocks=blocks, single=single, processes=processes)


def _by_kind(suite: Suite, kinds: Mapping[str, str]) -> dict[str, Suite]:
    """List the suite, and its tasks of each kind if it has several kinds.

    A task of unknown kind is in each of them, where nobody is complete without it.
    """
    broad_kinds = {task: broad_kind(kinds[task]) for task in suite.tasks if task in kinds}
    if len(set(broad_kinds.values())) < 2:
        return {"": suite}
    parts = {kind: [t for t in suite.tasks if broad_kinds.get(t, kind) == kind] for kind in KINDS}
    return {"": suite} | {
        kind: suite.model_copy(update={"tasks": tasks}) for kind, tasks in parts.items()
    }


def _shown(suites: Mapping[str, Suite], tasks: set[str]) -> dict[str, Suite]:
    """Choose the suites to show for records of ``tasks``."""
    chosen = {name for name, suite in suites.items() if tasks.issuperset(suite.tasks)}
    left = tasks.difference(*(suites[name].tasks for name in chosen))
    for name, suite in suites.items():
        if left.intersection(suite.tasks):
            chosen.add(name)
            left = left.difference(suite.tasks)
    shown = {name: suite for name, suite in suites.items() if name in chosen}
    return shown | ({OTHER_TASKS: Suite(tasks=sorted(left))} if left else {})
