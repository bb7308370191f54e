"""Transferability scores on disk: one JSON line per score and task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from medtransfer.core.errors import InputError, reason
from medtransfer.specs.base import Spec, explain, refuse_newer
from medtransfer.specs.record import EncoderRef, TaskRef

FILE = "scores.jsonl"
SCHEMA = 1


class ScoreRecord(Spec):
    """One transferability score of an encoder for a task; higher is better."""

    schema_: int = Field(default=SCHEMA, alias="schema", description="Version of this format.")
    encoder: EncoderRef = Field(description="The encoder.")
    task: TaskRef = Field(description="The task; only its training images are used.")
    protocol: str = Field(description="The protocol of input size and fixed values.")
    score: str = Field(
        description="Name of the score; in brackets what a sweep varied.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._,\[\]-]{0,99}$",
    )
    fingerprint: str = Field(description="Hash of all else that decides the number.")
    options: dict[str, Any] = Field(default={}, description="The score's fixed values.")
    value: float | None = Field(description="Null where it is undefined.")
    undefined: str | None = Field(default=None, description="Why it is.")
    images: int = Field(ge=0, description="Training images it was computed from.")
    flops: int = Field(ge=0, description="FLOPs of the encoder's passes, cached or not.")
    seconds: float = Field(ge=0, description="Wall time, without features that were kept.")
    environment: dict[str, Any] = Field(default={}, description="Versions, device, sizes.")
    finished: str = Field(description="ISO 8601, UTC.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        return refuse_newer(data, schema=SCHEMA)

    @model_validator(mode="after")
    def _said(self) -> ScoreRecord:
        if (self.value is None) != (self.undefined is not None):
            raise ValueError("undefined: required if value is null, and only then")
        return self

    @property
    def key(self) -> tuple[str, ...]:
        """Key under which a score is computed only once."""
        task = (self.task.name, self.task.fingerprint)
        return (self.encoder.sha256, *task, self.protocol, self.fingerprint)

    def line(self) -> str:
        """The record as one line of JSON, without the line's end."""
        return self.model_dump_json(by_alias=True)


def read_scores(folder: Path) -> list[ScoreRecord]:
    """Read a submission's scores without repeats; a missing file holds none.

    A last line without a line end is dropped: its writer was killed.

    Raises:
        InputError: Naming the file and the line that is no score.
    """
    scores: dict[tuple[str, ...], ScoreRecord] = {}
    for record in _iterate(folder / FILE):
        scores.setdefault(record.key, record)
    return list(scores.values())


def _iterate(path: Path) -> Iterator[ScoreRecord]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n") and line.strip():
                    try:
                        yield ScoreRecord.model_validate_json(line)
                    except ValidationError as error:
                        raise InputError(
                            f"{path}: line {number}: {explain(ScoreRecord, error)}"
                        ) from None
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
