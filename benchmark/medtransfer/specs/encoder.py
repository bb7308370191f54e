"""Encoder cards: architecture, weights, input and pre-training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from medtransfer.core.documents import digest
from medtransfer.specs.base import Spec
from medtransfer.specs.task import Name, Slug

Relation = Literal["intra", "inter", "none"]


class Architecture(Spec):
    """Architecture of the network, built by timm or by a Python function."""

    timm: str | None = Field(default=None, description="Architecture name in timm.")
    options: dict[str, Any] = Field(default={}, description="Arguments of timm.create_model.")
    drop_stages: int = Field(
        default=0, ge=0, description="Deepest stages (of a plain transformer: blocks) left out."
    )
    python: str | None = Field(
        default=None,
        description="module:function of the builder that was registered; set by the registry, "
        "never followed from a card that came as data.",
    )

    @model_validator(mode="after")
    def _one(self) -> Architecture:
        if (self.timm is None) == (self.python is None):
            raise ValueError("name either 'timm' or (from Python, by register) a builder")
        if self.drop_stages and self.timm is None:
            raise ValueError("drop_stages: only of a network that timm builds")
        return self


class Weights(Spec):
    """Location of the weights; without path, url or hub, weights are random."""

    path: str | None = Field(default=None, description="File beside the card.")
    url: str | None = Field(default=None, description="Download address.")
    hub: str | None = Field(default=None, description="timm name with tag, or hf-hub:owner/name.")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Hash of the file, checked before use."
    )

    @model_validator(mode="after")
    def _at_most_one(self) -> Weights:
        given = [name for name in ("path", "url", "hub") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"name one of path, url, hub; found {' and '.join(given)}")
        if self.url and not self.sha256:
            raise ValueError("sha256: required with url, so that the bytes can be checked")
        return self

    @property
    def random(self) -> bool:
        """No weights to load."""
        return not (self.path or self.url or self.hub)


class Input(Spec):
    """Input size and preprocessing of the encoder."""

    size: int = Field(default=224, ge=8, le=2048, description="Height and width in pixels.")
    range: tuple[float, float] = Field(
        default=(0.0, 1.0), description="What black and white become before mean and std."
    )
    mean: list[float] = Field(default=[0.485, 0.456, 0.406], description="Per channel, in range.")
    std: list[float] = Field(default=[0.229, 0.224, 0.225], description="Per channel, in range.")
    channels: Literal[1, 3] = Field(default=3, description="Grey images are repeated to 3.")

    @model_validator(mode="after")
    def _consistent(self) -> Input:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std: one value for each of {self.channels} channels")
        if min(self.std) <= 0:
            raise ValueError("std: must be positive")
        if self.range[0] >= self.range[1]:
            raise ValueError("range: [low, high] with low < high")
        return self


class Cost(Spec):
    """Declared compute of the pre-training; unknown is null."""

    flops: float | None = Field(default=None, ge=0, description="Floating point operations.")
    gpu_hours: float | None = Field(default=None, ge=0, description="Hours on one GPU.")
    energy_kwh: float | None = Field(default=None, ge=0, description="Kilowatt hours.")


class PretrainingRun(Spec):
    """Run of ``bench pretrain`` that made the encoder, and its cost beyond the parent's."""

    recipe: str = Field(description="Name of the recipe.")
    fingerprint: str = Field(description="Hash of everything that decides the weights.")
    tasks: dict[str, str] = Field(description="SHA-256 of the training split of each source.")
    images: int = Field(ge=1, description="Distinct images that were used.")
    balanced: bool = Field(default=False, description="Whether classes were sampled equally often.")
    epochs: float = Field(ge=0, description="Passes over the images.")
    steps: int = Field(ge=0, description="Steps of the optimiser.")
    batch: int = Field(ge=1, description="Images of a step, over all devices.")
    start: str = Field(default="", description="Identity (SHA-256) of the initial encoder.")
    trainable: str = Field(default="full", description="Trained part, as for --trainable.")
    source_head: str | None = Field(
        default=None,
        description="SHA-256 of the classifier that is kept beside the weights, of one source.",
    )
    overlaps: list[str] = Field(
        default=[], description="Known tasks that share a source corpus with the images."
    )
    images_seen: int = Field(ge=0, description="Steps times batch.")
    flops: int = Field(ge=0, description="FLOPs of all steps, counted exactly.")
    share_of_full: float | None = Field(
        default=None, description="Share of the FLOPs of as many steps on the whole network."
    )
    seconds: float = Field(ge=0, description="Wall time of the steps.")
    peak_memory_bytes: int | None = Field(default=None, description="Largest peak of one process.")
    energy_joules: float | None = Field(
        default=None, description="Energy by the device's own counter."
    )
    device: str = Field(default="", description="Processor or GPU.")
    processes: int = Field(default=1, ge=1, description="Devices that shared each step.")
    environment: dict[str, str] = Field(default={}, description="Versions and precision.")


class PretrainingCard(Spec):
    """Pre-training data; contamination and the transfer relation follow from it."""

    domains: list[Slug] | None = Field(
        default=None, description="Domains of the images; [] for random weights, null unknown."
    )
    datasets: list[str] | None = Field(
        default=None, description="Corpora, as task cards' lineage names them; null is unknown."
    )
    objective: str = Field(
        default="unknown", description="none, supervised, simclr, mae, ... none: random weights."
    )
    images_seen: int | None = Field(default=None, ge=0, description="Images times epochs.")
    init: str | None = Field(default=None, description="Parent encoder.")
    cost: Cost = Field(
        default=Cost(), description="Compute that the pre-training took, the parent's included."
    )
    run: PretrainingRun | None = Field(
        default=None, description="Written by bench pretrain, of its own part."
    )

    def relation(self, domain: str) -> Relation | None:
        """Compute the transfer relation to a task of ``domain``; see `EncoderCard.relation`."""
        if self.objective == "none":
            return "none"
        if self.domains is None:
            return None
        return "intra" if domain in self.domains else "inter"


RANDOM_WEIGHTS = PretrainingCard(domains=[], datasets=[], objective="none", images_seen=0)
"""The pre-training of an encoder that had none."""


class EncoderCard(Spec):
    """An image encoder: a per-image function from pixels to a vector.

    Examples:
        >>> import medtransfer
        >>> card = medtransfer.EncoderCard(
        ...     name="my-vit",
        ...     architecture={"timm": "vit_tiny_patch16_224"},
        ...     weights={"path": "weights.safetensors"},
        ...     input={"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
        ...     pretraining={"domains": ["chest-xray"], "objective": "mae"},
        ... )
        >>> card.relation("chest-xray"), card.relation("ct")
        ('intra', 'inter')
    """

    name: Name = Field(description="Unique; also the name of the submission's folder.")
    title: str = Field(default="", description="Title in one line.")
    licence: str = Field(default="", description="Licence of the weights.")
    citation: str = Field(default="", description="Publication to cite.")
    url: str = Field(default="", description="Home page.")
    architecture: Architecture = Field(description="Network architecture.")
    weights: Weights = Field(default=Weights(), description="Location of the weights.")
    input: Input = Field(default=Input(), description="The encoder's own preprocessing.")
    pooling: Literal["default", "avg", "max", "token"] = Field(
        default="default",
        description="How features become one vector; default is the architecture's own. Part of "
        "the encoder's identity.",
    )
    pretraining: PretrainingCard = Field(
        default=PretrainingCard(), description="Pre-training data, method and cost."
    )

    def identity(self, weights: str) -> str:
        """Hash everything that determines the encoder's output, so not its name (SHA-256).

        Args:
            weights: SHA-256 of the weights' file, of the builder's source, or the hub's name.
        """
        fields = self.model_dump(include={"architecture", "input", "pooling"})
        if not self.architecture.drop_stages:  # keeps identities from before this field existed
            del fields["architecture"]["drop_stages"]
        return digest({**fields, "weights": weights})

    @property
    def trained(self) -> str | None:
        """Trained part in ``bench pretrain``: ``partial:2, 41 % of the FLOPs of full``.

        ``None`` where it did not make the encoder.
        """
        run, dropped = self.pretraining.run, self.architecture.drop_stages
        if run is None:
            return None
        parts = [run.trainable]
        if dropped:
            parts.append(f"{dropped} stage{'s' if dropped > 1 else ''} dropped")
        if run.share_of_full is not None and run.share_of_full != 1:
            parts.append(f"{100 * run.share_of_full:.0f} % of the FLOPs of full")
        return ", ".join(parts)

    def relation(self, domain: str) -> Relation | None:
        """Compute the transfer relation to a task of ``domain`` from the declared domains.

        Returns:
            ``none`` for random weights, ``intra`` when the declared pre-training domains include
            the task's, else ``inter``; ``None`` when the domains are not declared.
        """
        return self.pretraining.relation(domain)
