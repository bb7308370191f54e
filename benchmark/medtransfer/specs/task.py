"""Task cards: one YAML file describes one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from medtransfer.specs.base import InputError, Spec, digest, packaged, read_yaml, suggest

__all__ = ["NpzSource", "PhantomSource", "Source", "TaskCard", "load_tasks", "resolve_tasks"]

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]

Kind = Literal["multiclass", "multilabel", "segmentation"]

_METRICS: dict[str, tuple[str, ...]] = {
    "multiclass": ("auroc",),
    "multilabel": ("auroc",),
    "segmentation": ("dice",),
}
_CHANCE = {"auroc": 0.5, "dice": 0.0}


class NpzSource(Spec):
    """One split of an ``.npz`` file in MedMNIST's layout."""

    npz: str = Field(description="File name, looked for in --data (or BENCH_DATA).")
    split: Literal["train", "val", "test"] = Field(description="Prefix of the arrays to read.")

    @field_validator("npz")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts or not value.endswith(".npz"):
            raise ValueError("a relative path of an .npz file inside the data folder is expected")
        return value


class PhantomSource(Spec):
    """Images drawn by the built-in generator, with a known truth."""

    phantom: str = Field(description="Name of the generator, e.g. chest-xray.")
    split: Literal["train", "validation", "test"] = Field(
        description="Part of the seed of each image."
    )
    items: int = Field(ge=1, le=100_000, description="Number of images.")
    scanner: Literal["standard", "other"] = Field(
        default="standard", description="The imaging device that is simulated."
    )
    size: int = Field(default=64, ge=16, le=512, description="Height and width in pixels.")


# The kind of a source is told by the key that names it. A new kind is one class here and one
# loader in data/sources.py.
SOURCES: dict[str, type[Spec]] = {"npz": NpzSource, "phantom": PhantomSource}
Source = NpzSource | PhantomSource


def _source(value: Any) -> Any:
    """Choose the source class by its key, so that an error speaks of that kind alone."""
    if isinstance(value, Spec) or not isinstance(value, dict):
        return value
    kinds = [key for key in SOURCES if key in value]
    if len(kinds) != 1:
        raise ValueError(f"a source names exactly one of: {', '.join(SOURCES)}")
    return SOURCES[kinds[0]].parse(value, origin=kinds[0])


class TaskCard(Spec):
    """A target task. The file's name is the task's name."""

    name: Name = Field(description="The name of the card's file, without .yaml.")
    title: str = Field(description="One line for people.")
    domain: Slug = Field(description="natural, chest-xray, ct, oct, fundus, microscopy, ...")
    kind: Kind = Field(description="What is predicted, and so which metrics are recorded.")
    classes: list[str] = Field(min_length=2, description="Class names; the index is the label.")
    metric: Literal["auroc", "dice"] = Field(description="The primary metric.")
    train: Source = Field(description="Training split; few-shot budgets are drawn from it.")
    validation: Source = Field(description="Selects hyperparameters at the full budget.")
    in_domain: Source = Field(description="Held-out data from the task's own source.")
    out_of_domain: dict[Slug, Source] = Field(
        default={}, description="Other test splits: another hospital, scanner, view or corpus."
    )
    flip: bool = Field(
        default=False, description="Whether a left-right flip keeps the label (augmentation)."
    )
    lineage: list[str] = Field(
        default=[], description="Source corpora, compared with an encoder's declared datasets."
    )
    revision: int = Field(default=1, ge=1, description="Bumped whenever numbers change.")
    licence: str = Field(description="Licence of the data.")
    citation: str = Field(description="What to cite.")

    @field_validator("train", "validation", "in_domain", mode="before")
    @classmethod
    def _choose_source(cls, value: Any) -> Any:
        return _source_or_value_error(value)

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
        if "in_domain" in self.out_of_domain:
            raise ValueError("out_of_domain: 'in_domain' is the name of the in-domain split")
        return self

    @property
    def chance(self) -> float:
        """The primary metric of a constant prediction; a constant, whoever else is ranked."""
        return _CHANCE[self.metric]

    @property
    def test_splits(self) -> dict[str, Source]:
        """All test splits by name; ``in_domain`` comes first."""
        return {"in_domain": self.in_domain, **self.out_of_domain}

    @property
    def splits(self) -> dict[str, Source]:
        """Every split by name: ``train``, ``validation`` and the test splits."""
        return {"train": self.train, "validation": self.validation, **self.test_splits}

    def fingerprint(self, data: dict[str, str]) -> str:
        """Hash what changes numbers: some of the card's fields and the decoded data.

        Where the bytes come from (a file's name, a mirror) does not change numbers, and neither
        does a corrected citation.

        Args:
            data: SHA-256 of the decoded images and labels of each split.
        """
        fields = self.model_dump(include={"kind", "classes", "metric", "flip", "revision"})
        return digest({**fields, "data": data})


def _source_or_value_error(value: Any) -> Any:
    try:
        return _source(value)
    except InputError as error:  # pydantic adds the name of the field
        raise ValueError(str(error)) from None


def load_card(path: Path) -> TaskCard:
    """Read one task card.

    Raises:
        InputError: Naming the file, the field and what would be right.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: a task card is a mapping of fields")
    if "name" in data:
        raise InputError(f"{path}: name: not a field of the file; the file's name is the name")
    return TaskCard.parse({"name": path.stem, **data}, origin=str(path))


def card_files(folder: Path) -> list[Path]:
    """The task cards below a folder, sorted.

    Raises:
        InputError: When the folder is not there, or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of task cards")
    paths = sorted(path for path in folder.rglob("*.yaml") if path.name != "suites.yaml")
    if not paths:
        raise InputError(f"{folder}: holds no task card (*.yaml)")
    return paths


def load_tasks(folder: Path | None = None) -> dict[str, TaskCard]:
    """Read the shipped task cards, and the user's own from ``folder``, by name.

    Raises:
        InputError: For a missing folder, a wrong card, or a name that two cards claim.
    """
    roots = [packaged("tasks")] + ([folder] if folder else [])
    cards: dict[str, TaskCard] = {}
    origin: dict[str, Path] = {}
    for root in roots:
        for path in card_files(root):
            if path.stem in cards and path.resolve() != origin[path.stem].resolve():
                raise InputError(
                    f"{path}: the name '{path.stem}' is taken by {origin[path.stem]}; rename it"
                )
            cards[path.stem], origin[path.stem] = load_card(path), path
    return cards


def load_suites() -> dict[str, list[str]]:
    """The named lists of tasks, from ``tasks/suites.yaml``."""
    path = packaged("tasks") / "suites.yaml"
    suites = read_yaml(path)
    if not isinstance(suites, dict):
        raise InputError(f"{path}: a mapping of suite name to a list of tasks is expected")
    return suites


def resolve_tasks(
    *, names: list[str], suite: str | None, folder: Path | None = None
) -> dict[str, TaskCard]:
    """The cards that a command line asks for.

    With names: those. With a suite: its tasks. With only a folder: every card in it. With
    nothing: the phantom suite.
    """
    cards = load_tasks(folder)
    if names:
        wanted = names
    elif suite is None and folder is not None:
        wanted = [path.stem for path in card_files(folder)]
    else:
        suites = load_suites()
        if (suite := suite or "phantom") not in suites:
            raise InputError(f"--suite: unknown suite '{suite}'{suggest(suite, suites)}")
        wanted = suites[suite]
    for name in wanted:
        if name not in cards:
            raise InputError(f"unknown task '{name}'{suggest(name, cards)}")
    return {name: cards[name] for name in dict.fromkeys(wanted)}
