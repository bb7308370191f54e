"""What the cards and the data of a submission's tasks say, looked up once for all records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.data.draws import draw_items, strata
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.labels import count_labels
from medtransfer.data.split import Split, TaskData
from medtransfer.data.store import open_task
from medtransfer.metrics import Evaluation, evaluate, item_weights
from medtransfer.specs.protocol import shots
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import TaskCard, find_task, load_tasks

__all__ = ["Draw", "Task", "open_tasks"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """The training items of a draw.

    Attributes:
        items: How many.
        counts: Of each class, or positives of each label; of masks the number of images.
        strata: Of each class, or of each rarest label: what decides how many are held out.
    """

    items: int
    counts: list[int]
    strata: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        card: Its card.
        data: Its data, where they are at hand.
        absent: Why they are not.
    """

    card: TaskCard
    data: TaskData | None
    absent: str = ""
    _draws: dict[tuple[str, int], Draw] = field(default_factory=dict, repr=False)
    _truths: dict[str, Evaluation] = field(default_factory=dict, repr=False)

    def draw(self, budget: str, draw: int) -> Draw | None:
        """What a draw takes from the training split; ``None`` without data."""
        if self.data is None:
            return None
        key = budget, draw
        if key not in self._draws:
            train = self.data.splits["train"]
            items = draw_items(
                train.labels,
                train.ids,
                shots=shots(budget),
                task=self.card.name,
                draw=draw,
                patients=train.patients,
            )
            labels = train.labels[items]
            masks = self.card.kind == "segmentation"
            counts = [len(items)] if masks else count_labels(labels, len(self.card.classes))
            groups = tuple(np.bincount(strata(labels)).tolist())
            self._draws[key] = Draw(len(items), counts, groups)
        return self._draws[key]

    def truth(self, split: str) -> Evaluation | None:
        """The evaluation of predictions that are all alike: what it holds of null is the data's.

        ``None`` without data, and for masks, of which the predictions decide.
        """
        if self.data is None or self.card.kind == "segmentation":
            return None
        if split not in self._truths:
            labels = self.data.tests[split].labels
            shape = len(labels), len(self.card.classes)
            alike = np.full(shape, 1 / shape[1])
            none = np.zeros((0, len(labels)))
            self._truths[split] = evaluate(alike, labels, none, kind=self.card.kind)
        return self._truths[split]

    def weights(self, name: str, split: Split, replicates: int) -> Floats:
        """The weights (B, N) of a test split's bootstrap replicates."""
        return item_weights(
            self.card.name,
            SplitName.parse(name).family,
            len(split),
            replicates=replicates,
            groups=split.patients,
        )


def open_tasks(
    names: Iterable[str],
    *,
    task_folder: Path | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Task]:
    """Find the cards of tasks, and their data where they are at hand. Nothing is downloaded.

    Args:
        names: Of the tasks; one that no card has is left out.
        task_folder: The user's own cards.
        data: Where the cards' files are looked for.
        progress: Shows decoding.
    """
    cards = load_tasks(task_folder)
    tasks = {}
    for name in sorted(set(names)):
        if (card := find_task(name, cards)) is None:
            continue
        try:
            opened = open_task(card, folder=data, progress=progress, fetch=False)
            tasks[name] = Task(card, opened)
        except InputError as error:
            tasks[name] = Task(card, None, str(error))
    return tasks
