"""`bench pretrain --grid`: train and evaluate many encoders under matched conditions.

Finished encoders are skipped. Several calls may share a grid, on one machine or on machines with a
shared disk: each takes the next encoder that no other call holds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
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

_PAUSE = 2.0  # seconds before the next attempt, if other calls hold all remaining encoders


@dataclass(frozen=True)
class Member:
    """An encoder of a grid.

    Attributes:
        name: Name of the encoder.
        request: Options of its run; ``None`` for an architecture with random weights.
        parent: Name of the encoder that it starts from.
    """

    name: str
    request: Request | None
    parent: str | None = None


def load_grid(path: Path) -> Grid:
    """Read a grid."""
    return Grid.parse(read_yaml(path), origin=str(path))


def check_grid(grid: Grid, task_folder: Path | None = None) -> None:
    """Check all names in a grid before hours of work."""
    cards = load_tasks(task_folder)
    for source, tasks in grid.sources.items():
        for task in tasks:
            if find_task(task, cards) is None:
                raise InputError(f"sources.{source}: unknown task '{task}'{suggest(task, cards)}")
    for architecture in grid.architectures:
        resolve_untrained(architecture)
    recipes = {load_recipe(recipe).name for recipe in grid.recipes}
    for number, further in enumerate(grid.adapt):
        epochs = grid.epochs or load_recipe(further.by).epochs
        try:
            Trainable.read(further.trainable).check(epochs)
        except InputError as error:
            raise InputError(f"adapt.{number}: {error}") from None
    if len(recipes) < len(grid.recipes):
        raise InputError("recipes: two have the same name, but encoders are named by recipe")
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


@dataclass
class Study:
    """A run of a grid.

    Attributes:
        grid: The grid, checked.
        data: Folder with the data files.
        task_folder: Folder of the user's task cards.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Callbacks of training and evaluation.
        cards: Cards of the trained encoders, from this call or an earlier one.
        failures: Errors, one line each.
    """

    grid: Grid
    data: Path | None = None
    task_folder: Path | None = None
    device: str = "auto"
    progress: JobProgress = field(default_factory=JobProgress)
    cards: list[EncoderCard] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Train and evaluate all encoders. One that fails does not stop the others."""
        waiting = {member.name: member for member in self._list_members()}
        failed: set[str] = set()
        while waiting:
            # From the start each time: a finished parent makes its children ready.
            ready = (m for m in waiting.values() if m.parent not in waiting)
            done = next((m for m in ready if self._take(m, failed)), None)
            if done is not None:
                del waiting[done.name]
            else:
                time.sleep(_PAUSE)

    def _list_members(self) -> Iterator[Member]:
        """List all encoders of the grid, parents before their children."""
        grid, out = self.grid, Path(self.grid.out)
        common = Request(data=self.data, task_folder=self.task_folder, device=self.device)
        for architecture in grid.architectures:
            yield Member(architecture, None)
            for images in grid.images:
                common = replace(common, images=images, epochs=grid.epochs)
                for (source, tasks), recipe in product(grid.sources.items(), grid.recipes):
                    name = self._name(architecture, source, recipe, images)
                    request = replace(
                        common,
                        recipe=recipe,
                        tasks=tasks,
                        architecture=architecture,
                        size=grid.size,
                        out=out / name,
                    )
                    yield Member(name, request)
                for further in grid.adapt:
                    parent = self._name(architecture, further.source, further.recipe, images)
                    name = f"{parent}-{further.label}"
                    request = replace(
                        common,
                        recipe=further.by,
                        tasks=grid.sources[further.onto],
                        init=str(out / parent),
                        trainable=further.trainable,
                        drop_stages=further.drop_stages,
                        out=out / name,
                    )
                    yield Member(name, request, parent)

    def _name(self, architecture: str, source: str, recipe: str, images: int | float | None) -> str:
        parts = [architecture.replace("/", "-"), source, Path(recipe).stem]
        if len(self.grid.images) > 1:
            parts.append(str(images) if images is not None else "all")
        return "-".join(parts)

    def _take(self, member: Member, failed: set[str]) -> bool:
        """Complete an encoder; return ``False`` if another call holds it."""
        if member.parent in failed:
            failed.add(member.name)
            self.failures.append(f"{member.name}: skipped, because {member.parent} failed")
            return True
        folder = Path(self.grid.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(f"out: {folder}", error) from None
        lock = FileLock(folder / f".{member.name.replace('/', '-')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            self.progress.say(f"== {member.name}")
            self._complete(member)
        except (InputError, RunError) as error:
            failed.add(member.name)
            self.failures.append(f"{member.name}: {error}")
        finally:
            release(lock)
        return True

    def _complete(self, member: Member) -> None:
        """Train and evaluate an encoder, unless that is already done."""
        if member.request is None:
            encoder = self._find_random(member.name)
        else:
            plan = prepare(member.request)
            # Imported here, so that a finished grid does not wait for torch.
            from medtransfer.pretraining.training import pretrain

            self.cards.append(pretrain(plan, self.progress))
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
            self.failures += [
                f"{member.name}: {record.cell}: {record.error}"
                for record in records
                if record.status == "failed"
            ]

    def _find_random(self, architecture: str) -> str:
        """Return a listed encoder with random weights, or write one at the grid's input size."""
        card = resolve_untrained(architecture).card
        size = self.grid.size or card.input.size
        if architecture in registered() and size == card.input.size:
            return architecture
        name = f"{architecture.replace('/', '-')}-random"
        resized = card.input.model_copy(update={"size": size})
        card = card.model_copy(
            update={"name": name, "title": f"{architecture}, random weights", "input": resized}
        )
        folder = Path(self.grid.out) / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "encoder.yaml", dump_card(card).encode())
        except OSError as error:
            raise unwritable(f"{folder}:", error) from None
        return str(folder)
