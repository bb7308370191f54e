"""Protocols: all settings of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from pydantic import Field, field_validator, model_validator

from medtransfer.core.documents import digest, read_yaml
from medtransfer.core.errors import InputError, suggest
from medtransfer.specs.base import Spec
from medtransfer.specs.task import Budget, Kind

Adaptation = Literal["knn", "linear", "finetune"]
SegmentationAdaptation = Literal["decoder", "finetune"]

BUDGETS: tuple[Budget, ...] = get_args(Budget)
PROBES: tuple[str, ...] = ("knn", "linear")
OPTIONAL: tuple[str, ...] = ("partial", "lora")
ADAPTATIONS: tuple[str, ...] = (*PROBES, "decoder", *OPTIONAL, "finetune")
KINDS: tuple[Kind, ...] = get_args(Kind)

HELD_OUT = 0.2  # share of few shots on which learning rates are scored

_FOLDER = Path(__file__).parent.parent / "protocols"


def shots(budget: str) -> int | None:
    """Items per class of a budget; ``None`` is the whole training split."""
    return None if budget == "full" else int(budget.removesuffix("-shot"))


class Frozen(Spec):
    """Probes of the frozen encoder (knn, linear)."""

    budgets: list[Budget] = Field(min_length=1, description="Budgets to run.")
    draws: int = Field(ge=1, description="Few-shot draws per budget.")
    draws_at_full: int = Field(default=1, ge=1, description="Probes are deterministic at full.")


class Knn(Spec):
    """Weighted nearest neighbours by cosine similarity (Wu et al. 2018; DINO's evaluation)."""

    neighbours: int = Field(default=20, ge=1, description="At most the smallest class count.")
    temperature: float = Field(default=0.07, gt=0, description="Weight is exp(cosine / this).")


class Linear(Spec):
    """Multinomial logistic regression: mean cross-entropy + l2/2 |w|^2, bias free."""

    l2: list[float] = Field(min_length=1, description="Values to select from, ascending.")
    l2_unselected: float = Field(default=1e-3, gt=0, description="Below select_from_shots.")
    select_from_shots: int = Field(
        default=10, ge=2, description="Fewest shots at which the L2 is selected."
    )
    folds: int = Field(default=5, ge=2, description="Stratified folds for few-shot selection.")

    @field_validator("l2")
    @classmethod
    def _ascending(cls, value: list[float]) -> list[float]:
        if sorted(set(value)) != value or value[0] <= 0:
            raise ValueError("positive values in ascending order are expected")
        return value


class Augmentation(Spec):
    """Random changes of the training images; a flip is decided by the task card."""

    crop: float = Field(default=0.8, gt=0, le=1, description="Smallest share of the area kept.")
    jitter: float = Field(default=0.1, ge=0, lt=1, description="Brightness and contrast, +-.")


class Run(Spec):
    """Length of fine-tuning at one budget, and number of draws."""

    draws: int = Field(ge=1, description="Independent draws (at full: seeds).")
    batch: int = Field(ge=2, description="Images per step.")
    steps: int | None = Field(default=None, ge=1, description="Steps; or give epochs.")
    epochs: int | None = Field(default=None, ge=1, description="Passes over the images.")

    @model_validator(mode="after")
    def _one_length(self) -> Run:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def length(self, items: int) -> int:
        """Number of steps when training on ``items`` images."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * -(-items // min(self.batch, items))


class Optimisation(Spec):
    """AdamW, its schedule, and the largest gradient."""

    weight_decay: float = Field(
        default=0.01, ge=0, description="Weight decay of AdamW, except on biases and norms."
    )
    layer_decay: float = Field(
        default=0.75, gt=0, le=1, description="Factor of the learning rate per layer group."
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps.")
    schedule: Literal["cosine", "steps"] = Field(
        default="cosine", description="steps: a tenth at 50 % and at 75 %."
    )
    clip: float | None = Field(default=1.0, gt=0, description="Largest gradient norm.")


class FineTuning(Optimisation):
    """Training of all parameters. A fixed compute budget, the same for every encoder."""

    budgets: dict[Budget, Run] = Field(min_length=1, description="Length of each budget.")
    learning_rates: list[float] = Field(min_length=1, description="Tried in turn; best is kept.")
    learning_rates_random: list[float] = Field(
        default=[], description="Also tried when the encoder's weights are random."
    )
    augmentation: Augmentation | None = Field(default=Augmentation(), description="null: none.")
    keep: Literal["last", "best"] = Field(
        default="last", description="best: the epoch with the best validation metric (at full)."
    )


class Training(NamedTuple):
    """Training of one cell by gradient: its settings, and the learning rates that it tries.

    Attributes:
        settings: Optimiser, schedule and augmentation.
        run: Steps and batch of its budget.
        rates: Learning rates to try; a single one is not scored.
        few_shot: Whether the budget is a few-shot one, with no validation split of its own.
    """

    settings: FineTuning
    run: Run
    rates: list[float]
    few_shot: bool

    @property
    def refits(self) -> bool:
        """Return whether the selected rate is retrained on all shots, held-out ones included."""
        return self.few_shot and len(self.rates) > 1

    def count_images(self, items: int, *, held_out: int, validation: int) -> tuple[int, int]:
        """Images trained on and images scored, selection included, if no loss becomes NaN.

        Args:
            items: Training items of the draw.
            held_out: Those of them that score the learning rates of a few-shot budget.
            validation: Items of the validation split, which score those of the full one.
        """
        rates, length = len(self.rates), self.run.length
        if self.refits:
            steps = rates * length(items - held_out) + length(items)
            return steps * self.run.batch, rates * held_out
        passes = int(rates > 1)
        if self.settings.keep == "best" and not self.few_shot:
            passes += -(-length(items) // -(-items // self.run.batch))  # one after each epoch
        return rates * length(items) * self.run.batch, rates * passes * validation


class Partial(Spec):
    """Fine-tuning of the deepest layers, for as long and at the same rates as of all."""

    share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Trained share of timm's layer groups, the deepest ones.",
    )


class Lora(Spec):
    """Low-rank updates of frozen weights (Hu et al., ICLR 2022), trained as long as finetune.

    They are added to every plain linear layer and ungrouped convolution that the encoder calls.
    """

    rank: int = Field(default=8, ge=1, description="Rank of each update.")
    alpha: float = Field(default=16, gt=0, description="An update counts alpha / rank times.")
    learning_rates: list[float] = Field(min_length=1, description="Tried in turn; best is kept.")


class Segmentation(Spec):
    """Adaptation to segmentation tasks: the same decoder for every encoder."""

    ranked: list[SegmentationAdaptation] = Field(
        min_length=1, description="Adaptations that every segmentation task needs."
    )
    decoder: FineTuning = Field(description="Training of the decoder on the frozen encoder.")
    finetune: FineTuning = Field(description="Training of encoder and decoder.")


class ScoreSettings(Spec):
    """Settings of transferability scores that need their own forward passes."""

    images: int = Field(
        default=512, ge=2, description="Training images of the contrastive robustness, by hash."
    )
    maps: int = Field(
        default=64, ge=2, description="The same, where features are not averaged (in a sweep)."
    )
    level: int = Field(
        default=2, ge=0, le=3, description="Level of the pyramid: 0 to 3, deepest last."
    )
    pooled: bool = Field(default=True, description="Features are averaged over space.")
    distance: Literal["cosine", "mse", "pearson"] = Field(
        default="cosine", description="Distance of the contrastive robustness."
    )
    margin: float = Field(default=0.5, ge=0, description="Margin of contrastive robustness.")
    # Grey images hardly react to the last two.
    brightness: float = Field(default=0.1, ge=0, lt=1, description="Jitter, +-.")
    contrast: float = Field(default=0.05, ge=0, lt=1, description="Jitter, +-.")
    saturation: float = Field(default=0.1, ge=0, lt=1, description="Jitter, +-.")
    hue: float = Field(default=0.05, ge=0, le=0.5, description="Jitter, +-, of the circle.")
    masks: int = Field(default=32, ge=2, description="Training images of class consistency.")
    pixels: int = Field(default=64, ge=2, description="Pixels of a class in such an image.")

    def options(self, score: str) -> dict[str, Any]:
        """Return the fixed values of a score that the protocol sets."""
        fixed = {"distance": self.distance, "margin": self.margin}
        return fixed if score == "robustness" else {}


class Protocol(Spec):
    """The whole protocol. Its fingerprint for a kind of task stands in every record."""

    name: str = Field(description="The name of the file, without .yaml.")
    title: str = Field(description="Title in one line.")
    revision: int = Field(ge=1, description="Raised when code changes numbers.")
    ranked: list[Adaptation] = Field(
        min_length=1, description="Adaptations that every classification task needs."
    )
    max_size: int = Field(ge=8, description="Largest input size in pixels.")
    frozen: Frozen | None = Field(default=None, description="Budgets of knn and linear.")
    knn: Knn = Field(default=Knn(), description="Nearest neighbours.")
    linear: Linear | None = Field(default=None, description="Logistic regression.")
    finetune: FineTuning | None = Field(default=None, description="Fine-tuning.")
    segmentation: Segmentation | None = Field(default=None, description="Segmentation tasks.")
    partial: Partial | None = Field(default=None, description="Optional: run when asked for.")
    lora: Lora | None = Field(default=None, description="Optional: run when asked for.")
    scores: ScoreSettings = Field(
        default=ScoreSettings(), description="Transferability scores, which records do not need."
    )
    bootstrap: int = Field(default=200, ge=20, description="Item-weight replicates per test split.")
    infeasible_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="A few-shot budget that would use this share of the "
        "training split or more is not applicable: it is the full budget in disguise.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Protocol:
        frozen = {"knn", "linear"} & set(self.ranked)
        if frozen and self.frozen is None:
            raise ValueError(f"frozen: required, because {sorted(frozen)[0]} is ranked")
        for name in ("linear", "finetune"):
            if name in self.ranked and getattr(self, name) is None:
                raise ValueError(f"{name}: required, because it is ranked")
        return self

    def fingerprint(self, kind: str, adaptation: str) -> str:
        """SHA-256 of the values that a kind of task depends on, without the words for people.

        It is the same for all ranked adaptations. An optional one adds its own values, so that it
        can be changed, or added to a protocol, without making the others anew.
        """
        others = {"ranked", "frozen", "knn", "linear", "finetune"}
        foreign = others if kind == "segmentation" else {"segmentation"}
        optional = set(OPTIONAL) - {adaptation}
        return digest(self.model_dump(exclude={"name", "title", "scores", *foreign, *optional}))

    @property
    def fingerprints(self) -> dict[tuple[str, str], str]:
        """The fingerprint of each kind of task and adaptation that the protocol has."""
        return {
            (kind, adaptation): self.fingerprint(kind, adaptation)
            for kind in KINDS
            for adaptation in (*self.adaptations(kind), *self.optional(kind))
        }

    def adaptations(self, kind: str) -> tuple[str, ...]:
        """List the ranked adaptations of a kind of task; none if it is not supported."""
        if kind != "segmentation":
            return tuple(self.ranked)
        return tuple(self.segmentation.ranked) if self.segmentation else ()

    def optional(self, kind: str) -> tuple[str, ...]:
        """List the optional adaptations: run on request, shown, never ranked."""
        trained = self.segmentation if kind == "segmentation" else self.finetune
        return tuple(name for name in OPTIONAL if trained and getattr(self, name))

    def _settings(self, adaptation: str, kind: str) -> FineTuning:
        """Settings of an adaptation that trains by gradient."""
        if kind != "segmentation":
            settings = self.finetune
        elif self.segmentation is not None:
            by_name = {"decoder": self.segmentation.decoder}
            settings = by_name.get(adaptation, self.segmentation.finetune)
        else:
            settings = None
        if settings is None:
            raise ValueError(f"protocol {self.name} has no {adaptation} for {kind}")
        return settings

    def training(
        self,
        adaptation: str,
        kind: str,
        budget: str,
        *,
        random: bool = False,
        reused: float | None = None,
    ) -> Training:
        """Collect a cell's training settings and the learning rates to try.

        Args:
            adaptation: One that trains by gradient.
            kind: Of the task.
            budget: One that the adaptation has.
            random: Whether the encoder's weights are random.
            reused: The learning rate taken over from draw 0; see `Cell.reused_rate`.
        """
        settings = self._settings(adaptation, kind)
        rates = settings.learning_rates + (settings.learning_rates_random if random else [])
        if adaptation == "lora" and self.lora is not None:
            rates = self.lora.learning_rates
        if reused is not None:
            rates = [reused]
        run = settings.budgets[cast(Budget, budget)]
        return Training(settings, run, rates, few_shot=shots(budget) is not None)

    def budgets(self, adaptation: str, kind: str) -> dict[str, int]:
        """Budgets of an adaptation and their number of draws."""
        if adaptation not in PROBES:
            runs = self._settings(adaptation, kind).budgets
            return {budget: run.draws for budget, run in runs.items()}
        if self.frozen is None:
            return {}
        return {
            budget: self.frozen.draws_at_full if budget == "full" else self.frozen.draws
            for budget in self.frozen.budgets
        }


def list_protocols() -> list[str]:
    """List the shipped protocols by name."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """Read a shipped protocol.

    Raises:
        InputError: For an unknown name. There is no way to pass a protocol of one's own: its
            records could never be compared with anybody's.
    """
    if name not in list_protocols():
        raise InputError(f"--protocol: unknown protocol '{name}'{suggest(name, list_protocols())}")
    path = _FOLDER / f"{name}.yaml"
    return Protocol.parse({"name": name, **read_yaml(path)}, origin=str(path))
