"""The checks of `bench verify`, in order; each takes the records that passed the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medtransfer.core.documents import read_yaml, refuse_links
from medtransfer.core.errors import InputError
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.protocol import Protocol
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
from medtransfer.verification.entries import (
    LEDGER,
    Entry,
    ResolvedEntry,
    find_doubles,
    read_entries,
)
from medtransfer.verification.files import (
    check_archives,
    check_files,
    check_references,
    check_scores,
    suggest_beside,
)
from medtransfer.verification.recomputation import (
    Arrays,
    check_predictions,
    read_predictions,
    read_replicates,
)
from medtransfer.verification.report import Check, collapse
from medtransfer.verification.selection import check_selected
from medtransfer.verification.tasks import Task, open_tasks
from medtransfer.verification.values import check_metrics, check_replicates

_FAILED = "problems found; not verified"


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
    """Check a submission.

    Phantoms are generated. Other data must be available locally; nothing is downloaded. Cells of a
    task without data are noted as not recomputed. Without ``rerun`` no network is built; torch is
    imported only where masks are compared, by the library that measures their distances.

    A submission may hold a part of a suite: its cells are verified, and the last line counts the
    missing ones.

    Not detected without ``rerun``: later draws, which have no stored predictions, if metric,
    interval and replicates are changed together; values that affect no other
    number, such as seconds, versions and scores on held-out training data; and altered predictions
    of another encoder, if the changes also alter its replicates.

    Args:
        folder: The submission, ``<out>/<encoder>``.
        task_folder: The user's own task cards.
        data: Where the cards' files are looked for.
        rerun: Number of cells, chosen at random, to run again if all other checks pass. With 1 or
            more, and if they pass too, ``verification.json`` is written.
        encoder: As for `bench evaluate --encoder`, if its weights are not beside the card or its
            code is not installed.
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
    yield Check(f"{LEDGER}: {len(entries)} records, no duplicate cell", tuple(problems))
    if not entries:
        yield Check(_FAILED, label="status")
        return
    with Archives(folder) as archives:
        verification = _Verification(folder, card, entries, archives, located, whole)
        said = set(problems)
        for check in verification.run(task_folder, data, progress):
            fresh = [p for p in dict.fromkeys(check.problems) if p not in said]
            said.update(fresh)
            if fresh or not check.problems:
                yield replace(check, problems=tuple(collapse(fresh)))
        if rerun and not said and located is not None:
            for check in verification.rerun(rerun, device, located):
                said.update(check.problems)
                yield check
    if said:
        yield Check(_FAILED, label="status")
    else:
        yield Check(_describe(folder, entries, verification.coverage), label="status")


def _open_card(folder: Path) -> EncoderCard:
    """Read the card of a submission, and refuse links among its files."""
    file = folder / "encoder.yaml"
    if not folder.is_dir():
        if folder.exists():
            raise InputError(f"{folder}: a file; the folder of a submission is expected")
        raise InputError(f"{folder}: no such folder{suggest_beside(folder)}")
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/encoder.yaml"))
        hint = f"; name one of those inside: {', '.join(inside)}" if inside else ""
        raise InputError(
            f"{folder}: holds no encoder.yaml; the folder of a submission is expected{hint}"
        )
    refuse_links(folder)
    return EncoderCard.parse(read_yaml(file), origin=str(file))


def _refuse_another(encoder: str, located: EncoderSource, entries: Sequence[Entry]) -> None:
    """Refuse an encoder other than that of the records."""
    recorded = {entry.record.encoder.sha256 for entry in entries}
    if recorded and located.identity not in recorded:
        raise InputError(
            f"--encoder: '{encoder}' is not the evaluated encoder: with this card its identity is "
            f"{located.identity[:12]}, but the records have "
            f"{', '.join(sorted(sha[:12] for sha in recorded)[:3])}"
        )


def _describe(folder: Path, entries: Sequence[Entry], coverages: Sequence[Coverage]) -> str:
    """Describe a submission that passed: its status, and the cells missing from a suite."""
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
        text += f"; {FILE} belongs to other files"
    return f"{text}; to verify it, run some cells again with --rerun 3"


@dataclass
class _Verification:
    """Submission under verification, with the records that passed so far.

    ``whole``: every line of the ledger was read. Otherwise, files and arrays without a record may
    belong to the unread lines.
    """

    folder: Path
    card: EncoderCard
    every: Sequence[Entry]
    archives: Archives
    located: EncoderSource | None
    whole: bool
    entries: list[ResolvedEntry] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    replicates: dict[Entry, Arrays] = field(default_factory=dict)
    coverage: list[Coverage] = field(default_factory=list)

    def run(
        self, task_folder: Path | None, data: Path | None, progress: Progress
    ) -> Iterator[Check]:
        """Run every check that needs no encoder."""
        names = {entry.record.task.name for entry in self.every}
        self.tasks = open_tasks(names, task_folder=task_folder, data=data, progress=progress)
        protocols = find_protocols({entry.record.protocol.name for entry in self.every})
        yield self._check_claims(protocols)
        yield self._check_files()
        splits = sum(len(entry.record.metrics) for entry in self.entries)
        problems = self._keep_sound(_check_values)
        yield Check(f"metrics: {splits} test splits, all values in range", tuple(problems))
        yield self._check_costs()
        yield self._check_replicates()
        yield self._check_predictions()
        records = [entry.record for entry in self.every]
        cells = {(record.protocol.name, record.cell) for record in records if record.settled}
        cards = {name: task.card for name, task in self.tasks.items()}
        self.coverage = measure_coverage(cells, cards, protocols.values())
        yield check_coverage(self.coverage)

    def rerun(self, count: int, device: str, located: EncoderSource) -> Iterator[Check]:
        """Run cells again, and write the verification if they pass."""
        # Imported late: only this check needs torch.
        from medtransfer.verification.rerun import Rerun, choose_cells

        data = {name: task.data for name, task in self.tasks.items() if task.data is not None}
        if absent := ", ".join(sorted(self.tasks.keys() - data.keys())):
            raise InputError(
                f"--rerun: the data of {absent} are missing, so the submission cannot be verified "
                "completely; pass --data, or download them with `bench data fetch`"
            )
        runner = Rerun(located, self.folder, data=data, device=device)
        ran = [entry for entry in self.entries if entry.record.status == "ok"]
        failed = False
        for entry in choose_cells(ran, count):
            problems = tuple(runner.run(entry, entry.protocol, entry.first))
            failed = failed or bool(problems)
            yield Check(f"run again: {entry.record.cell}", problems)
        if runner.cells and not failed:
            runner.write()

    def _keep_sound(self, check: Callable[[ResolvedEntry], Iterable[str]]) -> list[str]:
        """Check every record, and keep those without a problem."""
        checked = [(entry, list(check(entry))) for entry in self.entries]
        self.entries = [entry for entry, problems in checked if not problems]
        return [problem for _, problems in checked for problem in problems]

    def _check_claims(self, protocols: Mapping[str, Protocol]) -> Check:
        problems, notes = list(check_card(self.card, self.folder)), []
        identity = None
        try:
            located = self.located
            identity = located.identity if located else find_identity(self.card, self.folder)
        except InputError as error:
            problems.append(str(error))
        origin = "computed from the card"
        if identity is None:
            origin = "declared"
            hashes = Counter(entry.record.encoder.sha256 for entry in self.every)
            identity = hashes.most_common(1)[0][0]
            notes.append(
                "encoder.sha256: declared, not computed: the encoder's code or weights are "
                "missing, and encoder.yaml has no hash of them; name the encoder with --encoder"
            )
        firsts = {
            entry.record.cell: entry.record.selected
            for entry in self.every
            if entry.record.draw == 0 and entry.record.settled
        }
        for entry in self.every:
            record = entry.record
            protocol = protocols.get(record.protocol.name)
            task = self.tasks.get(record.task.name)
            faults = list(check_claims(entry, self.card, identity, protocol, task))
            problems += faults
            if protocol is not None and task is not None and not faults:
                first = firsts.get(record.cell.first)
                self.entries.append(
                    ResolvedEntry(entry.line, record, self.card, task, protocol, first)
                )
        counts = Counter(entry.record.status for entry in self.entries)
        statuses = ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
        title = f"cards: {statuses or 'no record'}; encoder {self.card.name}, identity {origin}"
        return Check(title, tuple(problems), tuple(notes))

    def _check_files(self) -> Check:
        """Check the files for the records of all lines; drop records without their arrays."""
        every = self.every
        problems = list(check_files(self.folder, self.card, every)) if self.whole else []
        problems += check_archives(self.archives, every, others=self.whole)
        problems += check_scores(self.folder, every)
        lines = set()
        for entry in every:
            for fault in check_references(entry.record):
                problems.append(entry.fault(*fault))
                lines.add(entry.line)
        self.entries = [entry for entry in self.entries if entry.line not in lines]
        count = sum(path.is_file() for path in self.folder.rglob("*"))
        return Check(f"files: {count}, the arrays match the records", tuple(problems))

    def _check_costs(self) -> Check:
        costly = [entry for entry in self.entries if entry.record.cost is not None]
        problems = [problem for entry in costly for problem in check_cost(entry)]
        problems += check_alike(costly)
        title = f"costs: {len(costly)}, consistent between cells that are alike"
        return Check(title, tuple(problems))

    def _check_replicates(self) -> Check:
        """Compare the stored replicates of every cell with its metrics and each other."""

        def check(entry: ResolvedEntry) -> Iterator[str]:
            if entry.record.status != "ok":
                return
            try:
                arrays = read_replicates(entry, self.archives)
            except InputError as error:
                yield str(error)
            else:
                self.replicates[entry] = arrays
                yield from check_replicates(entry, arrays)

        problems = self._keep_sound(check)
        problems += find_copies(self.replicates)
        problems += find_borrowed(self.replicates, self.folder)
        return Check(
            f"replicates: {len(self.replicates)} cells, consistent with metrics and intervals",
            tuple(problems),
        )

    def _check_predictions(self) -> Check:
        """Compute all numbers of draw 0 again from the stored predictions."""
        problems = []
        recomputed = 0
        for entry in self.entries:
            if entry.record.predictions is None:
                continue
            try:
                predictions = read_predictions(entry, self.archives)
            except InputError as error:
                problems.append(str(error))
                continue
            if (data := entry.task.data) is not None:
                recomputed += 1
                replicates = self.replicates[entry]
                problems += check_predictions(
                    entry, data.tests, predictions=predictions, replicates=replicates
                )
        cells = Counter(entry.record.task.name for entry in self.entries)
        notes = [
            f"not recomputed: {name}, {cells[name]} cells: {task.absent}"
            for name, task in self.tasks.items()
            if task.data is None
        ]
        title = f"recomputed: {recomputed} cells of draw 0 from their predictions"
        return Check(title, tuple(problems), tuple(notes))


def _check_values(entry: ResolvedEntry) -> Iterator[str]:
    """Check metrics and hyperparameters of a record."""
    if entry.record.status == "ok":
        yield from check_metrics(entry)
    if entry.record.cost is not None:
        yield from check_selected(entry)
