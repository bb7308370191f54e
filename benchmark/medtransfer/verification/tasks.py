"""Cards and data of a submission's tasks, looked up once for all records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medtransfer.core.errors import InputError
from medtransfer.data.draws import draw_items, hold_out, strata
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.labels import count_labels
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.evaluation.measures import evaluate_split
from medtransfer.metrics import Evaluation
from medtransfer.specs.protocol import HELD_OUT, shots
from medtransfer.specs.task import TaskCard, find_task, load_tasks


@dataclass(frozen=True)
class Draw:
    """Training items of a draw.

    Attributes:
        items: How many.
        counts: Of each class, or positives of each label; of masks the number of images.
        strata: Of each class, or of each rarest label: what decides how many are held out.
        held_out: Items that score the learning rates of a few-shot budget.
    """

    items: int
    counts: list[int]
    strata: tuple[int, ...]
    held_out: int


@dataclass(frozen=True)
class Task:
    """Task of a submission.

    Attributes:
        card: Its card.
        data: Its data, where they are at hand.
        absent: Why they are absent.
    """

    card: TaskCard
    data: TaskData | None
    absent: str = ""
    _draws: dict[tuple[str, int], Draw] = field(default_factory=dict, repr=False)
    _truths: dict[str, Evaluation] = field(default_factory=dict, repr=False)

    def draw(self, budget: str, draw: int) -> Draw | None:
        """Look up the training items of a draw; ``None`` without data."""
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
            groups = strata(labels)
            held_out = int(hold_out(groups, HELD_OUT).sum())
            sizes = tuple(np.bincount(groups).tolist())
            self._draws[key] = Draw(len(items), counts, sizes, held_out)
        return self._draws[key]

    def truth(self, split: str) -> Evaluation | None:
        """Evaluate equal predictions: what is undefined of these is so for all predictions.

        ``None`` without data, and for masks, where it depends on the predictions.
        """
        if self.data is None or self.card.kind == "segmentation":
            return None
        if split not in self._truths:
            test = self.data.tests[split]
            classes = len(self.card.classes)
            alike = np.full((len(test), classes), 1 / classes)
            self._truths[split] = evaluate_split(self.card, test, alike, np.zeros((0, len(test))))
        return self._truths[split]


def open_tasks(
    names: Iterable[str],
    *,
    task_folder: Path | None = None,
    data: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Task]:
    """Open the cards of tasks, and their local data. Nothing is downloaded.

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
