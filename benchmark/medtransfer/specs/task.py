"""Task cards: one YAML file describes one task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializeAsAny, StringConstraints, field_validator, model_validator

from medtransfer.core.documents import digest, packaged, read_yaml
from medtransfer.core.errors import InputError, suggest
from medtransfer.specs.base import Spec
from medtransfer.specs.corruptions import kinds_of
from medtransfer.specs.source import CorruptSource, MedmnistSource, Source, choose_source
from medtransfer.specs.split_name import IN_DOMAIN, SplitName

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]

Kind = Literal["multiclass", "multilabel", "segmentation"]
Budget = Literal["1-shot", "5-shot", "10-shot", "100-shot", "full"]

_METRICS: dict[str, tuple[str, ...]] = {
    "multiclass": ("auroc",),
    "multilabel": ("auroc",),
    "segmentation": ("dice",),
}
CHANCE = {"auroc": 0.5, "dice": 0.0}


class TaskCard(Spec):
    """A target task. The file's name is the task's name."""

    name: Name = Field(description="The name of the card's file, without .yaml.")
    title: str = Field(description="Title in one line.")
    domain: Slug = Field(description="natural, chest-xray, ct, oct, fundus, microscopy, ...")
    kind: Kind = Field(description="Kind of prediction, which sets the metrics.")
    classes: list[str] = Field(min_length=2, description="Class names; the index is the label.")
    metric: Literal["auroc", "dice"] = Field(description="The primary metric.")
    train: SerializeAsAny[Source] = Field(
        description="Training split; few-shot budgets are drawn from it."
    )
    validation: SerializeAsAny[Source] = Field(
        description="Selects hyperparameters at the full budget."
    )
    in_domain: SerializeAsAny[Source] = Field(
        description="Held-out data from the task's own source."
    )
    out_of_domain: dict[Slug, SerializeAsAny[Source | CorruptSource]] = Field(
        default={},
        description="Other test splits: another hospital, scanner, view or corpus; and, named "
        "corrupted, graded corruptions of one.",
    )
    sizes: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="Published number of items of each split; the data must agree."
    )
    counts: dict[str, list[Annotated[int, Field(ge=0)]]] = Field(
        default={},
        description="Published number of items of each class (multilabel: of positives of each "
        "label) of a split; the data must agree.",
    )
    flip: bool = Field(
        default=False, description="Whether a left-right flip keeps the label (augmentation)."
    )
    lineage: list[str] = Field(
        default=[], description="Source corpora, compared with an encoder's declared datasets."
    )
    revision: int = Field(default=1, ge=1, description="Raised when numbers change.")
    licence: str = Field(description="Licence of the data.")
    citation: str = Field(description="What to cite.")

    @field_validator("train", "validation", "in_domain", mode="before")
    @classmethod
    def _choose_source(cls, value: Any) -> Any:
        source = _source_or_value_error(value)
        if isinstance(source, CorruptSource):
            raise ValueError("corrupt: only an out-of-domain split may be corrupted")
        return source

    @field_validator("out_of_domain", mode="before")
    @classmethod
    def _choose_sources(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: _source_or_value_error(source) for key, source in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> TaskCard:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name occurs twice")
        if self.metric not in _METRICS[self.kind]:
            raise ValueError(f"metric: for {self.kind} use one of {', '.join(_METRICS[self.kind])}")
        for name, source in self.out_of_domain.items():
            self._check_out_of_domain(name, source)
        for name, split in self.sources.items():
            for chosen in split.select or ():
                if chosen not in self.classes:
                    raise ValueError(
                        f"{name}: select: '{chosen}' is no class of this card"
                        + suggest(chosen, self.classes)
                    )
        self._check_counts()
        return self

    def _check_out_of_domain(self, name: str, source: Source | CorruptSource) -> None:
        if name in ("train", "validation", "in_domain"):
            raise ValueError(f"out_of_domain: '{name}' is the name of another split")
        # The ranking counts graded corruptions as one split, and knows them by this name.
        if isinstance(source, CorruptSource) != name.startswith("corrupted"):
            raise ValueError(
                f"out_of_domain: {name}: splits of corruptions, and only these, have names that "
                "start with 'corrupted'"
            )
        if isinstance(source, CorruptSource):
            tests = self.sources.keys() - {"train", "validation"}
            if source.corrupt not in tests:
                raise ValueError(
                    f"out_of_domain: {name}: corrupt: '{source.corrupt}' is no test split of "
                    f"this card{suggest(source.corrupt, tests)}"
                )

    def _check_counts(self) -> None:
        for field in ("sizes", "counts"):
            for name in getattr(self, field):
                if name not in self.sources:
                    raise ValueError(
                        f"{field}: '{name}' is no split of this card{suggest(name, self.sources)}"
                    )
        for name, counts in self.counts.items():
            if len(counts) != len(self.classes):
                raise ValueError(f"counts: {name}: one number a class is expected")
            size = self.sizes.get(name, sum(counts))
            if self.kind == "multiclass" and sum(counts) != size:
                raise ValueError(f"counts: {name}: sum to {sum(counts)}, but sizes says {size}")

    @property
    def chance(self) -> float:
        """Primary metric of a constant prediction."""
        return CHANCE[self.metric]

    @property
    def corpora(self) -> list[str]:
        """Source corpora of all splits; a card that names none is a corpus of its own."""
        splits = [name for source in self.sources.values() for name in source.lineage or ()]
        return sorted({*self.lineage, *splits}) or [self.name]

    @property
    def training_corpora(self) -> list[str]:
        """Source corpora of the training split."""
        return self.train.lineage or self.lineage or [self.name]

    @property
    def sources(self) -> dict[str, Source]:
        """The splits that have files (or generators) of their own, by name."""
        fixed = {"train": self.train, "validation": self.validation, "in_domain": self.in_domain}
        others = self.out_of_domain.items()
        return fixed | {name: source for name, source in others if isinstance(source, Source)}

    @property
    def test_splits(self) -> dict[str, Source | CorruptSource]:
        """All test splits by name; ``in_domain`` comes first.

        Graded corruptions become one split a kind and severity; see `SplitName`.
        """
        splits: dict[str, Source | CorruptSource] = {IN_DOMAIN: self.in_domain}
        for name, source in self.out_of_domain.items():
            if isinstance(source, Source):
                splits[name] = source
                continue
            for kind in source.kinds or kinds_of(self.domain):
                for severity in source.severities:
                    single = source.model_copy(update={"kinds": [kind], "severities": [severity]})
                    splits[str(SplitName(name, kind, severity))] = single
        return splits

    @property
    def splits(self) -> dict[str, Source | CorruptSource]:
        """Every split by name: ``train``, ``validation`` and the test splits."""
        return {"train": self.train, "validation": self.validation, **self.test_splits}

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """The sizes in pixels at which all files of the task are published; the card's first."""
        sources = self.sources.values()
        sizes = {source.size for source in sources if isinstance(source, MedmnistSource)}
        if len(sizes) != 1 or not all(isinstance(s, MedmnistSource) for s in sources):
            return ()
        default = sizes.pop()
        every: tuple[int, ...] = get_args(MedmnistSource.model_fields["size"].annotation)
        return (default, *(size for size in every if size != default))

    def at_size(self, size: int) -> TaskCard:
        """Copy the card for official files of another size: a separate task, ``<name>_<size>``.

        Its few-shot draws differ, too.
        """
        resized = {
            name: source.model_copy(update={"size": size})
            if isinstance(source, MedmnistSource)
            else source
            for name, source in {**self.sources, **self.out_of_domain}.items()
        }
        fixed = {name: resized.pop(name) for name in ("train", "validation", "in_domain")}
        update = {"name": f"{self.name}_{size}", "out_of_domain": resized}
        return self.model_copy(update={**update, **fixed})

    def fingerprint(self, data: dict[str, str]) -> str:
        """Hash the decoded data and the card's fields that change numbers.

        Where the bytes come from (a file's name, a mirror) does not change numbers, and neither
        does a corrected citation.

        Args:
            data: SHA-256 of the decoded images and labels of each split.
        """
        fields = self.model_dump(include={"kind", "classes", "metric", "flip", "revision"})
        return digest({**fields, "data": data})


def _source_or_value_error(value: Any) -> Any:
    try:
        return choose_source(value)
    except InputError as error:  # pydantic adds the name of the field
        raise ValueError(str(error)) from None


class Suite(Spec):
    """A named list of tasks, run and ranked together."""

    title: str = Field(default="", description="Title in a few words.")
    tasks: list[Name] = Field(min_length=1, description="Names of task cards.")
    budgets: list[Budget] | None = Field(
        default=None, min_length=1, description="Only these; null: all budgets of the protocol."
    )


def load_card(path: Path) -> TaskCard:
    """Read one task card.

    Raises:
        InputError: Naming the file, the field and the expected value.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: a task card is a mapping of fields")
    if "name" in data:
        raise InputError(f"{path}: name: not allowed; the file's name is the task's name")
    return TaskCard.parse({"name": path.stem, **data}, origin=str(path))


def card_files(folder: Path) -> list[Path]:
    """The task cards below a folder, sorted.

    Raises:
        InputError: When the folder does not exist, or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of task cards")
    paths = sorted(path for path in folder.rglob("*.yaml") if path.name != "suites.yaml")
    if not paths:
        raise InputError(f"{folder}: holds no task card (*.yaml)")
    return paths


def load_tasks(folder: Path | None = None) -> dict[str, TaskCard]:
    """Read the shipped task cards, and the user's own from ``folder``, by name.

    A user's card replaces a shipped one of the same name; fingerprints keep their numbers apart.

    Raises:
        InputError: For a missing folder, a wrong card, or a name that two cards of a folder claim.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"--tasks: {folder}: no such folder of task cards")
    cards: dict[str, TaskCard] = {}
    for root in [packaged("tasks")] + ([folder] if folder else []):
        paths: dict[str, Path] = {}
        for path in card_files(root):
            if path.stem in paths:
                raise InputError(
                    f"{path}: the name '{path.stem}' is taken by {paths[path.stem]}; rename it"
                )
            cards[path.stem], paths[path.stem] = load_card(path), path
    return cards


def load_suites(path: Path | None = None) -> dict[str, Suite]:
    """Read the suites of a file, by default ``tasks/suites.yaml``; a list stands for its tasks."""
    path = path or packaged("tasks") / "suites.yaml"
    suites = read_yaml(path)
    if not isinstance(suites, dict):
        raise InputError(f"{path}: a mapping of suite name to a list of tasks is expected")
    return {
        name: Suite.parse(
            {"tasks": value} if isinstance(value, list) else value, origin=f"{path}: {name}"
        )
        for name, value in suites.items()
    }


def suite_budgets(name: str | None) -> list[Budget]:
    """Return the budgets of a suite; empty for all of the protocol."""
    suite = load_suites().get(name or "")
    return (suite.budgets if suite else None) or []


def find_task(name: str, cards: Mapping[str, TaskCard]) -> TaskCard | None:
    """Find a card by name; ``<card>_<size>`` is that card at another official size."""
    if name in cards:
        return cards[name]
    base, _, size = name.rpartition("_")
    if base in cards and size.isdigit() and int(size) in cards[base].image_sizes[1:]:
        return cards[base].at_size(int(size))
    return None


def resolve_tasks(
    *, names: list[str], suite: str | None, folder: Path | None = None
) -> dict[str, TaskCard]:
    """Resolve the cards that a command line names.

    With names: those. With a suite: its tasks. With only a folder: every card in it. With
    nothing: the phantom suite.
    """
    cards = load_tasks(folder)
    if names and suite is not None:
        raise InputError("--suite: give either --suite or --task")
    if names:
        wanted = names
    elif suite is None and folder is not None:
        wanted = [path.stem for path in card_files(folder)]
    else:
        suites = load_suites()
        if (suite := suite or "phantom") not in suites:
            raise InputError(f"--suite: unknown suite '{suite}'{suggest(suite, suites)}")
        wanted = suites[suite].tasks
    resolved = {name: find_task(name, cards) for name in wanted}
    for name, card in resolved.items():
        if card is None:
            raise InputError(
                f"--task: unknown task '{name}'{suggest(name, cards)} (`bench list tasks` shows "
                "the shipped ones; cards of your own: --tasks)"
            )
    return {name: card for name, card in resolved.items() if card is not None}
