"""The checks of `bench verify`, one after the other; each takes what the last found sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medtransfer.core.documents import read_yaml, refuse_links
from medtransfer.core.errors import InputError
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.verification import FILE, read_status
from medtransfer.verification.arrays import Archives
from medtransfer.verification.claims import (
    check_card,
    check_claims,
    find_identity,
    find_protocols,
    resolve_card,
)
from medtransfer.verification.copies import find_borrowed, find_copies
from medtransfer.verification.costs import check_alike, check_cost
from medtransfer.verification.coverage import Coverage, check_coverage, measure_coverage
from medtransfer.verification.entries import LEDGER, Entry, find_doubles, read_entries
from medtransfer.verification.files import (
    check_archives,
    check_files,
    check_references,
    check_scores,
    suggest_beside,
)
from medtransfer.verification.recomputation import (
    check_predictions,
    read_predictions,
    read_replicates,
)
from medtransfer.verification.report import Check, collapse
from medtransfer.verification.selection import check_selected
from medtransfer.verification.tasks import Task, open_tasks
from medtransfer.verification.values import check_metrics, check_replicates

__all__ = ["verify"]

_WRONG = "not right, so nothing was verified"


def verify(
    folder: Path,
    *,
    task_folder: Path | None = None,
    data: Path | None = None,
    rerun: int = 0,
    encoder: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Iterator[Check]:
    """Check everything in a submission that can be checked.

    Phantoms are drawn; other data are looked for, and not downloaded. Cells of a task whose data
    are absent are noted as not recomputed. Without ``rerun`` no network is built; torch is
    imported only where masks are compared, by the library that measures their distances.

    A submission may be a part of a suite: what is verified are the cells that are there, and the
    last line says how many are missing.

    What could still be bent without ``rerun``: the later draws, of which no predictions are kept,
    where metric, interval and replicates are changed together; what no number follows from, such
    as seconds, versions and scores on held-out training data; and predictions of another encoder
    that were changed so that its replicates change too.

    Args:
        folder: The submission, ``<out>/<encoder>``.
        task_folder: The user's own task cards.
        data: Where the cards' files are looked for.
        rerun: How many cells, chosen at random, to run again when all else is right. With 1 or
            more, and if they are right too, ``verification.json`` is written.
        encoder: What was evaluated, as `bench evaluate --encoder` took it, where its weights are
            not beside the card or its code is not installed.
        device: ``auto``, ``cpu`` or ``cuda``, for the cells that are run again.
        progress: Shows the decoding of data.

    Yields:
        Each check as it is done.

    Raises:
        InputError: When the folder is no submission, the encoder is another one, or a cell cannot
            be run again here.
    """
    card = _open_card(folder)
    entries, problems = read_entries(folder)
    whole = not problems
    located = None
    if rerun or encoder is not None:
        located = resolve_card(card, folder, encoder)
    if encoder is not None and located is not None:
        _refuse_another(encoder, located, entries)
    problems += find_doubles(entries)
    yield Check(f"{LEDGER}: {len(entries)} records, no cell settled twice", tuple(problems))
    if not entries:
        yield Check(_WRONG, label="status")
        return
    with Archives(folder) as archives:
        verification = _Verification(folder, card, entries, archives, located, whole)
        said = set(problems)
        for check in verification.run(task_folder, data, progress):
            fresh = [p for p in dict.fromkeys(check.problems) if p not in said]
            said.update(fresh)
            if fresh or not check.problems:
                yield replace(check, problems=tuple(collapse(fresh)))
        if rerun and not said:
            for check in verification.rerun(rerun, device):
                said.update(check.problems)
                yield check
    if said:
        yield Check(_WRONG, label="status")
    else:
        yield Check(_describe(folder, entries, verification.coverage), label="status")


def _open_card(folder: Path) -> EncoderCard:
    """The card of a submission, whose files are plain ones."""
    file = folder / "encoder.yaml"
    if not folder.is_dir():
        what = "a file; the folder of a submission is expected" if folder.exists() else ""
        raise InputError(f"{folder}: {what or f'no such folder{suggest_beside(folder)}'}")
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/encoder.yaml"))
        hint = f"; name one of its own: {', '.join(inside)}" if inside else ""
        raise InputError(
            f"{folder}: holds no encoder.yaml; the folder of a submission is expected{hint}"
        )
    refuse_links(folder)
    return EncoderCard.parse(read_yaml(file), origin=str(file))


def _refuse_another(encoder: str, located: EncoderSource, entries: Sequence[Entry]) -> None:
    """Refuse to take an encoder for the one that the records are of."""
    recorded = {entry.record.encoder.sha256 for entry in entries}
    if recorded and located.identity not in recorded:
        raise InputError(
            f"--encoder: '{encoder}' is another one than was evaluated: with the card its weights "
            f"and code give the identity {located.identity[:12]}, the records have "
            f"{', '.join(sorted(sha[:12] for sha in recorded)[:3])}"
        )


def _describe(folder: Path, entries: Sequence[Entry], coverages: Sequence[Coverage]) -> str:
    """What was right: how it stands with a submission, and with how much of a suite."""
    cells = sum(entry.record.settled for entry in entries)
    missing = [
        f"; {len(coverage.missing)} of the {coverage.planned} ranked cells of {coverage.of}, "
        f"protocol {coverage.protocol}, are missing"
        for coverage in coverages
        if coverage.missing
    ]
    status = read_status(folder)
    text = f"{status}: {cells} cells{''.join(missing)}"
    if status == "verified":
        return text
    if (folder / FILE).exists():
        text += f"; {FILE} is of other files than these"
    return f"{text}; --rerun 3 runs some of them again, which makes it verified"


@dataclass
class _Verification:
    """A submission, and what was found sound of it so far.

    ``whole`` says that every line of the ledger was read: files and arrays may be those of others.
    """

    folder: Path
    card: EncoderCard
    entries: list[Entry]
    archives: Archives
    located: EncoderSource | None
    whole: bool
    protocols: dict[str, Protocol] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    firsts: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)
    coverage: list[Coverage] = field(default_factory=list)

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
        cells = {
            (entry.record.protocol.name, entry.record.cell)
            for entry in every
            if entry.record.settled
        }
        cards = {name: task.card for name, task in self.tasks.items()}
        self.coverage = measure_coverage(cells, cards, self.protocols.values())
        yield check_coverage(self.coverage)

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
        assert self.located is not None
        runner = Rerun(self.located, self.folder, data=data, device=device)
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
        problems = list(check_files(self.folder, self.card, every)) if self.whole else []
        problems += check_archives(self.archives, every, others=self.whole)
        problems += check_scores(self.folder, every)
        for entry in every:
            found = [entry.fault(*fault) for fault in check_references(entry.record)]
            if found and entry in self.entries:
                self.entries.remove(entry)
            problems += found
        count = sum(path.is_file() for path in self.folder.rglob("*"))
        return Check(f"files: {count}, each array of a record and no other", tuple(problems))

    def _check_claims(self) -> Check:
        problems, notes = list(check_card(self.card, self.folder)), []
        identity = None
        try:
            known = self.located
            identity = known.identity if known else find_identity(self.card, self.folder)
        except InputError as error:
            problems.append(str(error))
        how = "computed from the card"
        if identity is None:
            how = "declared"
            hashes = Counter(entry.record.encoder.sha256 for entry in self.entries)
            identity = hashes.most_common(1)[0][0] if hashes else ""
            notes.append(
                "encoder.sha256: declared: its code or weights are not at hand, and no hash of "
                "them stands in encoder.yaml; name what was evaluated with --encoder"
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
        problems += find_borrowed(found, self.folder)
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

    def _protocol(self, entry: Entry) -> Protocol:
        return self.protocols[entry.record.protocol.name]

    def _first(self, entry: Entry) -> Mapping[str, Any] | None:
        return self.firsts.get(entry.record.cell._replace(draw=0))
