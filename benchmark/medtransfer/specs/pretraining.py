"""Pre-training: recipes, trainable parts of a network, and grids of runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medtransfer.core.documents import digest, packaged, read_yaml
from medtransfer.core.errors import InputError, suggest
from medtransfer.specs.base import Spec
from medtransfer.specs.protocol import Augmentation, Optimisation
from medtransfer.specs.task import Name


class Views(Augmentation):
    """Random changes of the images; of colour in the order of SimCLR's strength, without blur.

    Blur is left out as in SimCLR's own CIFAR recipe: images of 32 to 64 px have no detail to lose.
    A flip is decided by the task card.
    """

    saturation: float = Field(default=0.0, ge=0, le=1, description="Change of saturation, +-.")
    hue: float = Field(
        default=0.0, ge=0, le=0.5, description="Change of hue, +-, as a share of the colour circle."
    )
    grey: float = Field(default=0.0, ge=0, le=1, description="Probability of a grey image.")


class Contrastive(Spec):
    """SimCLR (Chen et al., A Simple Framework for Contrastive Learning, ICML 2020)."""

    temperature: float = Field(
        default=0.2, gt=0, description="Temperature of the cosine similarities."
    )
    width: int = Field(default=128, ge=1, description="Width of the projection.")


class Masking(Spec):
    """SimMIM (Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022)."""

    patch: int = Field(default=16, ge=1, description="Height and width of a mask's squares, px.")
    share: float = Field(default=0.6, gt=0, lt=1, description="Share of masked squares.")


class Recipe(Spec):
    """Pre-training recipe, named as its file."""

    name: Name = Field(description="The name of the file, without .yaml.")
    title: str = Field(description="Title in one line.")
    revision: int = Field(default=1, ge=1, description="Raised when code changes numbers.")
    objective: Literal["supervised", "simclr", "simmim"] = Field(
        description="Pre-training objective."
    )
    epochs: int = Field(ge=1, description="Passes over the images, unless --epochs is given.")
    batch: int = Field(ge=2, description="Images of a step, over all devices.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    optimisation: Optimisation = Field(default=Optimisation(layer_decay=1.0), description="Rest.")
    augmentation: Views | None = Field(
        description="null: none, and the output of what is frozen is computed once."
    )
    simclr: Contrastive | None = Field(default=None, description="Settings of SimCLR.")
    simmim: Masking | None = Field(default=None, description="Settings of SimMIM.")

    @model_validator(mode="after")
    def _of_the_objective(self) -> Recipe:
        for name in ("simclr", "simmim"):
            if (getattr(self, name) is not None) != (self.objective == name):
                raise ValueError(f"{name}: goes with objective: {name}, and only with it")
        if self.objective == "simclr" and self.augmentation is None:
            raise ValueError("augmentation: simclr compares two random views, so it needs one")
        return self

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the values that change numbers; a run's own length is not among them."""
        return digest(self.model_dump(exclude={"name", "title", "epochs"}))


def _folder() -> Path:
    return packaged("pretraining") / "recipes"


def list_recipes() -> list[str]:
    """List the shipped recipes by name."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Read a shipped recipe by its name, or one of the user's by the path of its file.

    Raises:
        InputError: For an unknown name, or naming the file and the field that is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in list_recipes():
            raise InputError(
                f"--recipe: unknown recipe '{name}'{suggest(name, list_recipes())} (one of your "
                "own: the path of its .yaml file)"
            )
        path = _folder() / f"{name}.yaml"
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: a recipe is a mapping of fields")
    return Recipe.parse({"name": path.stem, **data}, origin=str(path))


class Phase(Spec):
    """A part of a run, with an optimiser and a schedule of its own."""

    stages: int | tuple[str, ...] | None = Field(
        default=None, description="So many of the deepest, or layers by name; null: everything."
    )
    epochs: int | None = Field(default=None, description="Length; null: the rest of the run.")


class Trainable(Spec):
    """Trainable parts of the network, by phase (after Mehmood et al. 2022)."""

    text: str = Field(description="The option as given.")
    phases: tuple[Phase, ...] = Field(min_length=1, description="Phases in order.")

    @classmethod
    def read(cls, text: str) -> Trainable:
        """Read ``full``, ``partial:<stages>`` or ``hybrid:<stages>:<epochs>``.

        ``<stages>`` is the number of deepest stages (of a plain transformer: blocks), or names of
        layers joined by commas.

        Raises:
            InputError: For anything else.
        """
        if text == "full":
            return cls(text=text, phases=(Phase(),))
        kind, _, rest = text.partition(":")
        stages, _, epochs = rest.partition(":")
        if kind == "partial" and stages and ":" not in rest:
            return cls(text=text, phases=(Phase(stages=_stages(stages)),))
        if kind == "hybrid" and stages and re.fullmatch(r"[1-9]\d{0,5}", epochs):
            first = Phase(stages=_stages(stages), epochs=int(epochs))
            return cls(text=text, phases=(first, Phase()))
        raise InputError(
            f"--trainable: '{text}'; full, partial:STAGES or hybrid:STAGES:EPOCHS is expected, "
            "with STAGES the number of deepest stages (partial:2) or names of layers "
            "(partial:layer3,layer4)"
        )

    def check(self, epochs: int) -> None:
        """Refuse phases that take the whole run.

        Raises:
            InputError: When no epoch is left for training all parameters.
        """
        for phase in self.phases:
            if phase.epochs is not None and phase.epochs >= epochs:
                raise InputError(
                    f"--trainable: {self.text} trains a part for {phase.epochs} epochs, but the "
                    f"whole run has {epochs}; fewer, or more --epochs, are needed"
                )


def _stages(text: str) -> int | tuple[str, ...]:
    if re.fullmatch(r"\d{1,4}", text):
        if int(text) == 0:
            raise InputError("--trainable: 0 stages are nothing to train; 1 or more is expected")
        return int(text)
    return tuple(name for name in text.split(",") if name)


class Adapt(Spec):
    """A further run that starts from encoders of the grid."""

    label: Name = Field(description="Suffix of the encoder's name.")
    source: str = Field(description="Source of the first run, one of the grid's.")
    recipe: str = Field(description="Recipe of the first run, one of the grid's.")
    onto: str = Field(description="Source of the second run.")
    by: str = Field(description="Recipe of the second run.")
    trainable: str = Field(default="full", description="As for --trainable.")
    drop_stages: int = Field(default=0, ge=0, description="As for --drop-stages.")


class GridEvaluation(Spec):
    """Evaluation settings of the grid's encoders."""

    protocol: str = Field(description="As for bench evaluate.")
    suites: list[str] = Field(default=[], description="Suites, run in order.")
    tasks: list[str] = Field(default=[], description="Single tasks, instead of suites.")
    budgets: list[str] = Field(default=[], description="Only these; none: all.")
    adaptations: list[str] = Field(default=[], description="Only these; none: the ranked ones.")
    out: str = Field(default="submissions", description="Folder of submissions.")

    @model_validator(mode="after")
    def _suites_or_tasks(self) -> GridEvaluation:
        if bool(self.suites) == bool(self.tasks):
            raise ValueError("name either suites or tasks")
        return self


class Grid(Spec):
    """Grid of architectures x sources x sizes x recipes, with further pre-training."""

    architectures: list[str] = Field(min_length=1, description="As for --architecture.")
    sources: dict[Name, Annotated[list[str], Field(min_length=1)]] = Field(
        min_length=1, description="Task names of each source."
    )
    recipes: list[str] = Field(min_length=1, description="As for --recipe.")
    images: list[int | float | None] = Field(
        default=[None], min_length=1, description="As for --images; null: all."
    )
    epochs: int | None = Field(default=None, ge=1, description="As for --epochs.")
    size: int | None = Field(default=None, ge=8, description="As for --size.")
    adapt: list[Adapt] = Field(default=[], description="Further pre-training.")
    out: str = Field(default="encoders", description="Folder of the encoders.")
    evaluate: GridEvaluation | None = Field(default=None, description="null: only pre-trains.")

    @model_validator(mode="after")
    def _known_names(self) -> Grid:
        for number, further in enumerate(self.adapt):
            for field, value, known in (
                ("source", further.source, list(self.sources)),
                ("onto", further.onto, list(self.sources)),
                ("recipe", further.recipe, self.recipes),
            ):
                if value not in known:
                    raise ValueError(
                        f"adapt.{number}.{field}: '{value}' is none of the grid's"
                        + suggest(value, known)
                    )
        labels = [further.label for further in self.adapt]
        if len(set(labels)) != len(labels):
            raise ValueError("adapt: a label occurs twice")
        return self
