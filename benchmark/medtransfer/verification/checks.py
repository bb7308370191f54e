"""The checks of `bench verify`, one after the other; each takes what the last found sound."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medtransfer.data.remote import SILENT, Progress
from medtransfer.runs.plan import plan_cells
from medtransfer.specs.base import InputError, read_yaml
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.verification import read_status
from medtransfer.verification.arrays import Archives
from medtransfer.verification.claims import (
    check_card,
    check_claims,
    find_identity,
    find_protocols,
)
from medtransfer.verification.costs import check_alike, check_cost
from medtransfer.verification.entries import LEDGER, Entry, find_doubles, read_entries
from medtransfer.verification.files import check_archives, check_files, check_references
from medtransfer.verification.recomputation import (
    check_predictions,
    read_predictions,
    read_replicates,
)
from medtransfer.verification.selection import check_selected
from medtransfer.verification.tasks import Task, open_tasks
from medtransfer.verification.values import check_metrics, check_replicates, find_copies

__all__ = ["Check", "print_checks", "verify"]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        title: What was looked at, with counts.
        problems: What is wrong, one line each; empty when it passed.
        notes: What the reader should know, such as what could not be checked.
    """

    title: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def verify(
    folder: Path,
    *,
    task_folder: Path | None = None,
    data: Path | None = None,
    rerun: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Iterator[Check]:
    """Check everything in a submission that can be checked.

    Phantoms are drawn; other data are looked for, and not downloaded. Cells of a task whose data
    are absent are noted as not recomputed. Without ``rerun`` no network is built; torch is
    imported only where masks are compared, by the library that measures their distances.

    What could still be bent without ``rerun``: the calibration and the like of later draws, and
    their primary metric within a standard deviation of its replicates; and predictions that are
    another encoder's as a whole.

    Args:
        folder: The submission, ``<out>/<encoder>``.
        task_folder: The user's own task cards.
        data: Where the cards' files are looked for.
        rerun: How many cells, chosen at random, to run again when all else is right. With 1 or
            more, and if they are right too, ``verification.json`` is written.
        device: ``auto``, ``cpu`` or ``cuda``, for these.
        progress: Shows the decoding of data.

    Yields:
        Each check as it is done.

    Raises:
        InputError: When the folder is no submission, or a cell cannot be run again here.
    """
    file = folder / "encoder.yaml"
    if not file.is_file():
        raise InputError(f"{folder}: holds no encoder.yaml; the folder of a submission is expected")
    card = EncoderCard.parse(read_yaml(file), origin=str(file))
    entries, problems = read_entries(folder)
    problems += find_doubles(entries)
    yield Check(f"{LEDGER}: {len(entries)} records, no cell settled twice", tuple(problems))
    with Archives(folder) as archives:
        verification = _Verification(folder, card, entries, archives)
        said = set(problems)
        for check in verification.run(task_folder, data, progress):
            fresh = [p for p in dict.fromkeys(check.problems) if p not in said]
            said.update(fresh)
            if fresh or not check.problems:
                yield replace(check, problems=tuple(_collapse(fresh)))
        if rerun and not said:
            yield from verification.rerun(rerun, device)
    notes = "; its verification.json is that of other files" if _outdated(folder) else ""
    yield Check(f"status: {read_status(folder)}{notes}")


def print_checks(checks: Iterable[Check]) -> int:
    """Print checks as they are done, problems as errors, and count the problems."""
    wrong = 0
    for check in checks:
        for note in check.notes:
            print(f"note: {_plain(note)}")
        for problem in check.problems:
            print(f"error: {_plain(problem)}", file=sys.stderr)
        if not check.problems:
            print(f"right: {check.title}", flush=True)
        wrong += len(check.problems)
    return wrong


def _collapse(problems: Iterable[str]) -> Iterator[str]:
    """Say what is wrong with many records in the same way once."""
    groups: dict[str, list[str]] = {}
    for problem in problems:
        head, _, text = problem.partition("): ")
        groups.setdefault(text if head.startswith(LEDGER) and text else problem, []).append(problem)
    for alike in groups.values():
        if len(alike) <= 3:
            yield from alike
        else:
            yield f"{alike[0]} (and so in {len(alike) - 1} more records)"


def _plain(text: str) -> str:
    """One line of a bounded length that moves no cursor, whatever a submission says."""
    return "".join(character if character.isprintable() else "?" for character in text[:1000])


def _outdated(folder: Path) -> bool:
    return (folder / "verification.json").exists() and read_status(folder) == "declared"


@dataclass
class _Verification:
    """A submission, and what was found sound of it so far."""

    folder: Path
    card: EncoderCard
    entries: list[Entry]
    archives: Archives
    protocols: dict[str, Protocol] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    firsts: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)

    def run(
        self, task_folder: Path | None, data: Path | None, progress: Progress
    ) -> Iterator[Check]:
        """Every check that runs no encoder."""
        every = list(self.entries)
        names = {entry.record.task.name for entry in self.entries}
        self.tasks = open_tasks(names, task_folder=task_folder, data=data, progress=progress)
        self.protocols = find_protocols({entry.record.protocol.name for entry in self.entries})
        yield self._check_claims()
        yield self._check_files(every)
        self.firsts = {
            entry.record.cell: entry.record.selected
            for entry in self.entries
            if entry.record.draw == 0
        }
        yield self._check_values()
        yield self._check_costs()
        yield from self._check_arrays()
        yield self._count_cells()

    def rerun(self, count: int, device: str) -> Iterator[Check]:
        """Run cells again, and write down when they are right."""
        # Here, and not above: all else must not wait for torch.
        from medtransfer.verification.rerun import Rerun, choose_cells

        absent = sorted(name for name, task in self.tasks.items() if task.data is None)
        if absent:
            raise InputError(
                f"--rerun: the data of {', '.join(absent)} are not at hand, so the submission "
                "cannot be verified as a whole; pass --data, or `bench data fetch` them"
            )
        data = {name: task.data for name, task in self.tasks.items() if task.data is not None}
        runner = Rerun(self.card, self.folder, data=data, device=device)
        ran = [entry for entry in self.entries if entry.record.status == "ok"]
        right = True
        for entry in choose_cells(ran, count):
            protocol = self.protocols[entry.record.protocol.name]
            problems = tuple(runner.run(entry, protocol, self.firsts))
            right = right and not problems
            yield Check(f"run again: {entry.record.cell}", problems)
        if right and runner.cells:
            runner.write()

    def _keep_sound(self, check: Callable[[Entry], Iterable[str]]) -> list[str]:
        """Check every record, and go on with those without a problem."""
        sound, problems = [], []
        for entry in self.entries:
            found = list(check(entry))
            problems += found
            if not found:
                sound.append(entry)
        self.entries = sound
        return problems

    def _check_files(self, every: Sequence[Entry]) -> Check:
        """What is there, for the records of all lines; those without their arrays are left out."""
        problems = list(check_files(self.folder, self.card, every))
        problems += check_archives(self.archives, every)
        for entry in every:
            found = [entry.fault(*fault) for fault in check_references(entry.record)]
            if found and entry in self.entries:
                self.entries.remove(entry)
            problems += found
        count = sum(path.is_file() for path in self.folder.rglob("*"))
        return Check(f"files: {count}, each array of a record and no other", tuple(problems))

    def _check_claims(self) -> Check:
        problems, notes = list(check_card(self.card)), []
        identity = None
        try:
            identity = find_identity(self.card, self.folder)
        except InputError as error:
            problems.append(str(error))
        how = "computed from the card"
        if identity is None:
            how = "declared"
            hashes = Counter(entry.record.encoder.sha256 for entry in self.entries)
            identity = hashes.most_common(1)[0][0] if hashes else ""
            notes.append(
                "encoder.sha256: declared: its code or weights are not at hand, and no hash of "
                "them stands in encoder.yaml"
            )
        problems += self._keep_sound(
            lambda entry: check_claims(
                entry,
                card=self.card,
                identity=identity,
                protocols=self.protocols,
                tasks=self.tasks,
            )
        )
        counts = Counter(entry.record.status for entry in self.entries)
        statuses = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
        title = f"cards: {statuses or 'no record'}; encoder {self.card.name}, identity {how}"
        return Check(title, tuple(problems), tuple(notes))

    def _check_values(self) -> Check:
        def check(entry: Entry) -> Iterator[str]:
            record = entry.record
            if record.status == "ok":
                yield from check_metrics(entry, self.tasks[record.task.name])
            if record.cost is not None:
                yield from check_selected(
                    entry, self.card, self._protocol(entry), self._first(entry)
                )

        splits = sum(len(entry.record.metrics) for entry in self.entries)
        return Check(f"values: {splits} test splits, each possible", tuple(self._keep_sound(check)))

    def _check_costs(self) -> Check:
        costly = [entry for entry in self.entries if entry.record.cost is not None]
        problems = [
            problem
            for entry in costly
            for problem in check_cost(
                entry,
                self.tasks[entry.record.task.name],
                card=self.card,
                protocol=self._protocol(entry),
                first=self._first(entry),
            )
        ]
        problems += check_alike(costly, self.tasks, self.firsts)
        return Check(f"costs: {len(costly)}, the same for cells that are alike", tuple(problems))

    def _check_arrays(self) -> Iterator[Check]:
        """Replicates of every cell; and of draw 0 all numbers, from the predictions."""
        found: dict[Entry, Any] = {}

        def check(entry: Entry) -> Iterator[str]:
            if entry.record.status != "ok":
                return
            try:
                found[entry] = read_replicates(entry, self.archives, self._protocol(entry))
            except InputError as error:
                yield str(error)
            else:
                yield from check_replicates(entry, found[entry])

        problems = self._keep_sound(check)
        problems += find_copies(found)
        yield Check(
            f"replicates: {len(found)} cells, intervals and metrics are theirs", tuple(problems)
        )
        kept = [entry for entry in self.entries if entry.record.predictions is not None]
        problems = []
        recomputed = 0
        for entry in kept:
            task = self.tasks[entry.record.task.name]
            try:
                predictions = read_predictions(entry, self.archives, task)
            except InputError as error:
                problems.append(str(error))
                continue
            if task.data is not None:
                recomputed += 1
                problems += check_predictions(
                    entry,
                    task,
                    self._protocol(entry),
                    predictions=predictions,
                    replicates=found[entry],
                )
        yield Check(
            f"recomputed: {recomputed} cells of draw 0 from their predictions",
            tuple(problems),
            tuple(self._not_recomputed()),
        )

    def _not_recomputed(self) -> Iterator[str]:
        for name, task in self.tasks.items():
            if task.data is None:
                cells = sum(entry.record.task.name == name for entry in self.entries)
                yield f"not recomputed: {name}, {cells} cells: {task.absent}"

    def _count_cells(self) -> Check:
        """How many of the ranked cells of these tasks are there; a missing one is no fault."""
        settled = {entry.record.cell for entry in self.entries if entry.record.settled}
        cards = {name: task.card for name, task in self.tasks.items()}
        notes: list[str] = []
        titles = []
        for protocol in self.protocols.values():
            cells = plan_cells(cards, protocol)
            missing = [cell for cell in cells if cell not in settled]
            there = len(cells) - len(missing)
            titles.append(f"{there} of {len(cells)} ranked cells of protocol {protocol.name}")
            notes += _name_missing(missing)
        return Check(f"coverage: {'; '.join(titles) or 'nothing'}", (), tuple(notes))

    def _protocol(self, entry: Entry) -> Protocol:
        return self.protocols[entry.record.protocol.name]

    def _first(self, entry: Entry) -> Mapping[str, Any] | None:
        return self.firsts.get(entry.record.cell._replace(draw=0))


def _name_missing(cells: Sequence[Cell]) -> Iterator[str]:
    if cells:
        more = f" and {len(cells) - 3} more" if len(cells) > 3 else ""
        yield f"missing: {', '.join(map(str, cells[:3]))}{more}"
