"""Records: one JSON line per finished cell, with its result and cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from medtransfer.core.errors import InputError, reason
from medtransfer.specs.base import Spec, explain, refuse_newer
from medtransfer.specs.protocol import PROBES
from medtransfer.specs.split_name import IN_DOMAIN, SplitName
from medtransfer.specs.task import CHANCE, Kind, Name, Slug

SCHEMA = 1

Status = Literal["ok", "diverged", "failed", "not_applicable"]

_ROUNDING = 1e-9
_LARGEST = 1e24  # bound that keeps later arithmetic finite
# Of all other metrics it is 1. The HD95 is a distance, n and classes_scored are counts.
_HIGHEST = {"hd95": _LARGEST, "n": _LARGEST, "classes_scored": _LARGEST}


def largest_value(kind: Kind, name: str) -> float:
    """Return the upper bound of a metric, or of one class's (``dice/tumour``); the lower is 0."""
    metric = name.partition("/")[0]
    if metric == "brier" and kind == "multiclass":
        return 2.0
    return _HIGHEST.get(metric, 1.0)


class Cell(NamedTuple):
    """Unit of an evaluation: run once; with the encoder, the key of a record."""

    task: str
    budget: str
    adaptation: str
    draw: int

    def __str__(self) -> str:
        """The cell in words, for progress and messages."""
        return f"{self.task} {self.budget} {self.adaptation} #{self.draw}"

    @property
    def first(self) -> Cell:
        """Draw 0 of the same task, budget and adaptation."""
        return self._replace(draw=0)

    @property
    def reuses_rate(self) -> bool:
        """Return whether the cell reuses draw 0's learning rate, as later draws at full do."""
        return self.draw > 0 and self.budget == "full" and self.adaptation not in PROBES

    def reused_rate(self, selected: Mapping[str, Any] | None) -> float | None:
        """Return the reused learning rate; ``None`` if the cell tries those of the protocol.

        Args:
            selected: Hyperparameters that draw 0 selected, of which a diverged one has no rate.
        """
        rate = (selected or {}).get("lr")
        return rate if self.reuses_rate and isinstance(rate, float) else None

    @property
    def replicates_key(self) -> str:
        """Start of the keys of its replicates in the submission's ``replicates.npz``."""
        return f"{self.task}/{self.budget}/{self.adaptation}/{self.draw}"

    @property
    def predictions_file(self) -> str:
        """Path of the archive with its predictions, inside the submission."""
        return f"predictions/{self.task}.npz"

    @property
    def predictions_key(self) -> str:
        """Start of the names of its predictions in that archive, which holds draw 0 only."""
        return f"{self.budget}/{self.adaptation}"


class EncoderRef(Spec):
    """The encoder of a record."""

    name: str = Field(description="Name on the encoder card.")
    sha256: str = Field(description="The card's identity: weights, architecture and input.")


class TaskRef(Spec):
    """The task of a record, with what the ranking needs to read its numbers."""

    name: Name = Field(description="Name of the task card.")
    fingerprint: str = Field(description="Hash of the card's fields and of the decoded data.")
    domain: Slug = Field(description="The card's domain.")
    kind: Kind = Field(description="The card's kind.")
    metric: Literal["auroc", "dice"] = Field(description="The primary metric.")
    chance: float = Field(ge=0, lt=1, description="The primary metric of a constant prediction.")


class ProtocolRef(Spec):
    """The protocol of a record."""

    name: str = Field(description="Name of the protocol.")
    fingerprint: str = Field(description="Hash of its values.")


class ArrayRef(Spec):
    """Arrays beside the ledger."""

    file: str = Field(description="Path inside the submission.")
    key: str = Field(description="Prefix of the arrays in the file, one array a test split.")
    sha256: str | None = Field(default=None, description="Hash of the arrays' bytes.")


class Cost(Spec):
    """Cost of a cell. Counts are exact; seconds and bytes are measured."""

    adaptation_flops: int = Field(
        ge=0, description="All training and selection, validation included."
    )
    inference_flops_per_image: int = Field(ge=0, description="One forward pass at the input size.")
    parameters: int = Field(ge=0, description="Encoder and head.")
    trainable_parameters: int = Field(ge=0, description="Those that were trained.")
    images_seen: int = Field(ge=0, description="Training images, selection included.")
    seconds: float = Field(ge=0, description="Wall time of the cell.")
    peak_memory_bytes: int | None = Field(ge=0, description="Peak memory of the cell's process.")
    energy_joules: float | None = Field(
        default=None, ge=0, description="Energy by the device's own counter."
    )
    device: str = Field(description="Processor or GPU.")

    @model_validator(mode="after")
    def _possible(self) -> Cost:
        if self.trainable_parameters > self.parameters:
            raise ValueError(
                f"trainable_parameters: {self.trainable_parameters} of {self.parameters} parameters"
            )
        return self


class Record(Spec):
    """One finished cell.

    Examples:
        >>> import medtransfer
        >>> record = medtransfer.evaluate(
        ...     "pixels",
        ...     tasks=["phantom_ct"],
        ...     budgets=["full"],
        ...     adaptations=["linear"],
        ...     protocol="quick",
        ...     out="results",
        ... )[0]
        >>> record.status, record.cell
        ('ok', Cell(task='phantom_ct', budget='full', adaptation='linear', draw=0))
        >>> round(record.metrics["in_domain"]["auroc"], 2)
        0.7...
        >>> record.cost.images_seen
        400
        >>> medtransfer.Record.model_validate_json(record.line()) == record
        True
    """

    schema_: int = Field(default=SCHEMA, alias="schema", description="Version of this format.")
    encoder: EncoderRef = Field(description="The encoder.")
    task: TaskRef = Field(description="Which task.")
    protocol: ProtocolRef = Field(description="The protocol.")
    budget: str = Field(description="1-shot ... full.")
    adaptation: str = Field(description="knn, linear, finetune, ...")
    draw: int = Field(ge=0, description="Few-shot draw; at full, the seed.")
    status: Status = Field(description="diverged is a result; failed is tried again.")
    error: str | None = Field(
        default=None, description="Reason of a failure, or of not being applicable."
    )
    selected: dict[str, Any] = Field(default={}, description="Hyperparameters, how they scored.")
    counts: list[Annotated[int, Field(ge=0)]] = Field(
        default=[], description="Training items per class."
    )
    metrics: dict[str, dict[str, int | float | None]] = Field(
        default={}, description="Per test split: every metric of the kind, n, classes_scored."
    )
    intervals: dict[str, dict[str, tuple[float, float] | None]] = Field(
        default={}, description="95 % bootstrap intervals of the metrics."
    )
    cost: Cost | None = Field(default=None, description="Cost of the cell.")
    replicates: ArrayRef | None = Field(default=None, description="Bootstrap of the primary one.")
    predictions: ArrayRef | None = Field(default=None, description="Probabilities, draw 0 only.")
    environment: dict[str, Any] = Field(default={}, description="Versions, device, sizes.")
    started: str = Field(description="ISO 8601, UTC.")
    finished: str = Field(description="ISO 8601, UTC.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        return refuse_newer(data, schema=SCHEMA)

    @model_validator(mode="after")
    def _possible(self) -> Record:
        if self.task.chance != CHANCE[self.task.metric]:
            raise ValueError(
                f"task.chance: {self.task.chance:g}; {self.task.metric} has "
                f"{CHANCE[self.task.metric]:g}"
            )
        for split, values in self.metrics.items():
            if split.startswith(f"{IN_DOMAIN}/"):
                raise ValueError(f"metrics.{split}: only {IN_DOMAIN} is in-domain")
            SplitName.parse(split)
            for name, value in values.items():
                if value is not None and not 0 <= value <= 1:
                    self._check_range(f"metrics.{split}.{name}", name, value)
        for split, intervals in self.intervals.items():
            for name, pair in intervals.items():
                if pair is not None and not 0 <= pair[0] <= pair[1] <= 1:
                    field = f"intervals.{split}.{name}"
                    for end in pair:
                        self._check_range(field, name, end)
                    if pair[0] > pair[1]:
                        raise ValueError(f"{field}: {pair[0]:g} to {pair[1]:g} is not ascending")
        return self

    def _check_range(self, field: str, name: str, value: float) -> None:
        """Refuse a metric, or one class's (``dice/tumour``), that no predictions give."""
        highest = largest_value(self.task.kind, name)
        # The primary metric is a mean of exact counts. Others may pass a bound by rounding.
        exact = name == self.task.metric and field.startswith("metrics.")
        rounding = 0.0 if exact else _ROUNDING
        if not -rounding <= value <= highest + rounding:
            text = f"{value:g}" if abs(value) < _LARGEST else "a huge number"
            raise ValueError(f"{field}: {text}; 0 to {highest:g} is possible")

    @property
    def cell(self) -> Cell:
        """The record's key within its submission."""
        return Cell(self.task.name, self.budget, self.adaptation, self.draw)

    @property
    def origin(self) -> tuple[str, str, str]:
        """Encoder, protocol and data by their hashes; only equal ones may be mixed."""
        return self.encoder.sha256, self.protocol.fingerprint, self.task.fingerprint

    @property
    def settled(self) -> bool:
        """Return whether the cell need not run again."""
        return self.status != "failed"

    def line(self) -> str:
        """The record as one line of JSON, without the line's end."""
        return self.model_dump_json(by_alias=True)


def read_records(path: Path) -> list[Record]:
    """Read a ledger, one record a line; a missing file is an empty one.

    Raises:
        InputError: Naming the file and the line that is not a record.
    """
    return first_settled(iterate_records(path))


def first_settled(records: Iterable[Record]) -> list[Record]:
    """Keep the first settled record of each cell and origin, else the last one."""
    kept: dict[tuple[object, ...], Record] = {}
    for record in records:
        key = (*record.cell, *record.origin)
        if key not in kept or not kept[key].settled:
            kept[key] = record
    return list(kept.values())


def iterate_records(path: Path, *, tasks: Collection[str] | None = None) -> Iterator[Record]:
    """Read a ledger line by line, repeated cells included; see `read_records`.

    A last line without a line end is dropped: its writer was killed.

    Args:
        path: The ledger.
        tasks: Only records of these tasks. Lines that name none of them are not parsed,
            which takes most of the time.

    Raises:
        InputError: Naming the file and the line that is not a record.
    """
    names = None if tasks is None else [f'"{task}"'.encode() for task in tasks]
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n") or not line.strip():
                    continue
                if names is not None and not any(name in line for name in names):
                    continue
                record = _parse(path, number, line)
                if tasks is None or record.task.name in tasks:
                    yield record
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        raise InputError(f"{path}: line {number}: {explain(Record, error)}") from None
