"""What every spec shares: a frozen, strict model, its file format and its hash."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medtransfer import __version__
from medtransfer.specs.errors import InputError, plain, reason, suggest

__all__ = [
    "InputError",
    "Spec",
    "digest",
    "explain",
    "packaged",
    "read_yaml",
    "refuse_links",
    "refuse_newer",
    "suggest",
]


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
    """The first of pydantic's complaints as one line."""
    complaints = error.errors(include_url=False)
    # A misspelt field is also a missing one; the misspelling says more.
    first = min(complaints, key=lambda complaint: complaint["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"]) or "the document"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown field" + suggest(str(first["loc"][-1]), _fields(cls, first["loc"]))
    elif first["type"] == "missing":
        message = "required, but missing"
    more = error.error_count() - 1
    return f"{field}: {message}" + (f" (and {more} more)" if more else "")


def _fields(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The fields of the model inside ``cls`` in which pydantic found something."""
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
    """Look at a document's format before its fields, which a newer format has others of.

    Raises:
        ValueError: Naming the version that wrote it, where it says so.
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


_SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 100
_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


def read_yaml(path: Path) -> Any:
    """Read a small YAML document.

    Aliases are refused: no card needs them, and nested ones expand without bound.

    Raises:
        InputError: When the file cannot be read, is too large, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > 1_000_000:
            raise InputError(f"{path}: larger than 1 MB; a card or protocol is a page of YAML")
        depth = 0
        for token in yaml.scan(text, _SAFE):
            if isinstance(token, yaml.AliasToken):
                raise InputError(f"{path}: YAML aliases are not allowed; write the value out")
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > _DEEPEST:  # libyaml's composer would run out of stack, and end the process
                raise InputError(f"{path}: nested too deeply; a card has a few levels")
        return yaml.load(text, _SAFE)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter of numbers and dates that are none
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def refuse_links(folder: Path) -> None:
    """Look whether a submission holds plain files only, before any of them is opened.

    Raises:
        InputError: For a link, which leads anywhere, or a device.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            kind = "a link" if path.is_symlink() else "no plain file"
            raise InputError(f"{path}: {kind}; only plain files belong into a submission")


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value`` (sorted keys, no spaces), as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def packaged(name: str) -> Path:
    """The folder of a part that ships inside the distribution, e.g. ``tasks``.

    Top-level folders of the checkout (``tasks``, ``baselines``, ``submissions``) are mapped to
    ``medtransfer.<name>``, so the import system knows where they are in every kind of install.
    """
    spec = importlib.util.find_spec(f"medtransfer.{name}")
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise InputError(f"the installation is incomplete: medtransfer.{name} is missing")
    return Path(next(iter(locations)))
