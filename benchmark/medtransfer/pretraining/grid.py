"""`bench pretrain --grid`: pre-train and evaluate many encoders under matched conditions.

Finished work is not repeated. Several calls may share a grid, on one machine or on several
with a common disk: each takes the next encoder that no other call is working on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError, RunError, suggest, unwritable
from medtransfer.core.files import release
from medtransfer.core.files import replace as write
from medtransfer.core.progress import JobProgress
from medtransfer.encoders.registry import registered
from medtransfer.encoders.resolution import dump_card, resolve_untrained
from medtransfer.evaluation.cells import check_choices
from medtransfer.evaluation.evaluate import run as run_evaluation
from medtransfer.evaluation.options import Request as EvaluationRequest
from medtransfer.evaluation.request import prepare as prepare_evaluation
from medtransfer.pretraining.options import Request
from medtransfer.pretraining.preparation import prepare
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.pretraining import Grid, Trainable, load_recipe
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.task import find_task, load_suites, load_tasks

_PAUSE = 2.0  # seconds between two looks at the work of other calls


@dataclass(frozen=True)
class Member:
    """An encoder of a grid.

    Attributes:
        name: The encoder's.
        request: Its pre-training; ``None`` for an architecture with random weights.
        parent: Name of the encoder that it starts from.
    """

    name: str
    request: Request | None
    parent: str | None = None


@dataclass
class Finished:
    """Result of a grid.

    Attributes:
        cards: Cards of the trained encoders, of this call and earlier ones.
        failures: One line for each failure.
    """

    cards: list[EncoderCard] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def load_grid(path: Path) -> Grid:
    """Read a grid.

    Raises:
        InputError: Naming the file, the field and what would be right.
    """
    return Grid.parse(read_yaml(path), origin=str(path))


def list_members(grid: Grid, common: Request) -> list[Member]:
    """List the encoders of a grid, each after its parent.

    Args:
        grid: The grid.
        common: Options that all runs share, such as the folder of data.
    """
    members = []
    for architecture in grid.architectures:
        members.append(Member(architecture, None))
        for images in grid.images:
            of_size = replace(common, images=images, epochs=grid.epochs)
            for source, tasks in grid.sources.items():
                for recipe in grid.recipes:
                    name = _name(grid, architecture, source, recipe, images)
                    request = replace(
                        of_size,
                        recipe=recipe,
                        tasks=tasks,
                        architecture=architecture,
                        size=grid.size,
                        out=Path(grid.out) / name,
                    )
                    members.append(Member(name, request))
            for further in grid.adapt:
                parent = _name(grid, architecture, further.source, further.recipe, images)
                request = replace(
                    of_size,
                    recipe=further.by,
                    tasks=grid.sources[further.onto],
                    init=str(Path(grid.out) / parent),
                    trainable=further.trainable,
                    drop_stages=further.drop_stages,
                    out=Path(grid.out) / f"{parent}-{further.label}",
                )
                members.append(Member(f"{parent}-{further.label}", request, parent))
    return members


def _name(
    grid: Grid, architecture: str, source: str, recipe: str, images: int | float | None
) -> str:
    parts = [architecture.replace("/", "-"), source, Path(recipe).stem]
    if len(grid.images) > 1:
        parts.append(str(images) if images is not None else "all")
    return "-".join(parts)


def check_grid(grid: Grid, task_folder: Path | None = None) -> None:
    """Check every name in a grid, before hours of work on a part of it.

    Raises:
        InputError: Naming the field and what would be right.
    """
    cards = load_tasks(task_folder)
    for source, tasks in grid.sources.items():
        for task in tasks:
            if find_task(task, cards) is None:
                raise InputError(f"sources.{source}: unknown task '{task}'{suggest(task, cards)}")
    for architecture in grid.architectures:
        resolve_untrained(architecture)
    recipes = [load_recipe(recipe) for recipe in grid.recipes]
    for number, further in enumerate(grid.adapt):
        epochs = grid.epochs or load_recipe(further.by).epochs
        try:
            Trainable.read(further.trainable).check(epochs)
        except InputError as error:
            raise InputError(f"adapt.{number}: {error}") from None
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise InputError("recipes: two have the same name, which is part of the encoders' names")
    if grid.evaluate is not None:
        protocol = load_protocol(grid.evaluate.protocol)
        suites = load_suites()
        for field, names, known in (
            ("suites", grid.evaluate.suites, suites),
            ("tasks", grid.evaluate.tasks, cards),
        ):
            for name in names:
                if name not in known and find_task(name, cards) is None:
                    raise InputError(
                        f"evaluate.{field}: unknown {field[:-1]} '{name}'{suggest(name, known)}"
                    )
        check_choices(
            protocol, budgets=grid.evaluate.budgets, adaptations=grid.evaluate.adaptations
        )


@dataclass(frozen=True)
class Study:
    """A grid and the options of its runs.

    Attributes:
        grid: The grid.
        data: Folder with the data files of the tasks.
        task_folder: Folder of the user's own task cards.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Callbacks of training and evaluation.
    """

    grid: Grid
    data: Path | None = None
    task_folder: Path | None = None
    device: str = "auto"
    progress: JobProgress = field(default_factory=JobProgress)

    @property
    def members(self) -> list[Member]:
        """List the encoders of the grid."""
        common = Request("", (), data=self.data, task_folder=self.task_folder, device=self.device)
        return list_members(self.grid, common)

    def run(self) -> Finished:
        """Pre-train and evaluate all encoders. One that fails does not stop the others.

        Raises:
            InputError: When the grid's folder cannot be written.
            RunError: When the disk is full.
        """
        check_grid(self.grid, self.task_folder)
        members, finished = self.members, Finished()
        waiting = {member.name: member for member in members}
        lost: set[str] = set()
        while waiting:
            # Start again from the first: a finished parent makes its children ready.
            ready = (m for m in waiting.values() if m.parent not in waiting)
            done = next((m for m in ready if self._take(m, lost, finished)), None)
            if done is not None:
                del waiting[done.name]
            else:  # other calls are working on all that is ready
                time.sleep(_PAUSE)
        return finished

    def _take(self, member: Member, lost: set[str], finished: Finished) -> bool:
        """Complete an encoder, unless another call is working on it."""
        if member.parent in lost:
            lost.add(member.name)
            finished.failures.append(f"{member.name}: skipped: its parent {member.parent} failed")
            return True
        lock = self._lock(member)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self.progress.say(f"== {member.name}")
            self._complete(member, finished)
        except (InputError, RunError) as error:
            lost.add(member.name)
            finished.failures.append(f"{member.name}: {error}")
        finally:
            release(lock)
        return True

    def _lock(self, member: Member) -> FileLock:
        folder = Path(self.grid.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(f"out: {folder}", error) from None
        return FileLock(folder / f".{member.name.replace('/', '-')}.lock")

    def _complete(self, member: Member, finished: Finished) -> None:
        """Pre-train an encoder and evaluate it; skip finished parts."""
        encoder = member.name
        if member.request is None:
            encoder = self._find_random(encoder)
        else:
            plan = prepare(member.request)
            # Imported late: a finished grid need not wait for torch.
            from medtransfer.pretraining.training import pretrain

            finished.cards.append(pretrain(plan, self.progress))
            encoder = str(plan.folder)
        evaluate = self.grid.evaluate
        if evaluate is None:
            return
        suites: list[str | None] = [*evaluate.suites]
        for suite in suites or [None]:
            request = EvaluationRequest(
                encoder=encoder,
                suite=suite,
                tasks=tuple(evaluate.tasks),
                budgets=tuple(evaluate.budgets),
                adaptations=tuple(evaluate.adaptations),
                protocol=evaluate.protocol,
                out=Path(evaluate.out),
                data=self.data,
                task_folder=self.task_folder,
                device=self.device,
            )
            records = run_evaluation(prepare_evaluation(request), self.progress)
            finished.failures += [
                f"{member.name}: {record.cell}: {record.error}"
                for record in records
                if record.status == "failed"
            ]

    def _find_random(self, architecture: str) -> str:
        """Find a network with random weights, at the grid's input size: a name or a folder."""
        card = resolve_untrained(architecture).card
        size = self.grid.size or card.input.size
        if architecture in registered() and size == card.input.size:
            return architecture
        name = f"{architecture.replace('/', '-')}-random"
        seen = card.input.model_copy(update={"size": size})
        card = card.model_copy(
            update={"name": name, "title": f"{architecture}, random weights", "input": seen}
        )
        folder = Path(self.grid.out) / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "encoder.yaml", dump_card(card).encode())
        except OSError as error:
            raise unwritable(f"{folder}:", error) from None
        return str(folder)
