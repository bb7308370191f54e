"""Base of all specs: a frozen, strict model, and its error messages."""

from __future__ import annotations

from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from medtransfer.core.errors import InputError, plain, suggest
from medtransfer.core.version import __version__


class Spec(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, data: Any, *, origin: str) -> Self:
        """Validate ``data``, read from ``origin``.

        Raises:
            InputError: Naming the origin, the first wrong field and what is expected there.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{origin}: {explain(cls, error)}") from None


def explain(cls: type[BaseModel], error: ValidationError) -> str:
    """Explain pydantic's first error in one line."""
    problems = error.errors(include_url=False)
    # A misspelt field is also reported as missing; the misspelling is more useful.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"]) or "the document"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown field" + suggest(str(first["loc"][-1]), _fields(cls, first["loc"]))
    elif first["type"] == "missing":
        message = "required, but missing"
    more = error.error_count() - 1
    return f"{field}: {message}" + (f" (and {more} more)" if more else "")


def _fields(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """List the fields of the nested model at ``location`` inside ``cls``."""
    for part in location[:-1]:
        annotation = cls.model_fields[str(part)].annotation if part in cls.model_fields else None
        # Of an optional field, and of a list's items, too.
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        models = [model for model in inner if issubclass(model, BaseModel)]
        if not models and not isinstance(part, int):
            return []
        cls = models[0] if models else cls
    return list(cls.model_fields)


def refuse_newer(data: Any, *, schema: int) -> Any:
    """Refuse a document of a newer format before its fields are read.

    Raises:
        ValueError: Naming the version that wrote it, where stated.
    """
    written = data.get("schema") if isinstance(data, dict) else None
    if isinstance(written, int) and written > schema:
        environment = data.get("environment")
        version = environment.get("medtransfer") if isinstance(environment, dict) else None
        writer = plain(str(version or data.get("medtransfer") or "a newer one"))[:40]
        raise ValueError(
            f"written in format {written} by medtransfer {writer}; {__version__}, which "
            f"is installed, reads up to format {schema}: upgrade it"
        )
    return data
