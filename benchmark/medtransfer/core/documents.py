"""Read YAML within limits, hash canonically, and find the folders shipped in the package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import yaml

from medtransfer.core.errors import InputError, reason

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
            if depth > _DEEPEST:  # libyaml overflows the stack, which ends the process
                raise InputError(f"{path}: nested too deeply; a card has a few levels")
        return yaml.load(text, _SAFE)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: malformed numbers and dates
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def refuse_links(folder: Path) -> None:
    """Refuse a submission that holds anything but plain files, before any of them is opened.

    Raises:
        InputError: For a link, which may lead out of the folder, or a device.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            kind = "a link" if path.is_symlink() else "not a plain file"
            raise InputError(f"{path}: {kind}; a submission holds plain files only")


def digest(value: Any) -> str:
    """Hash the canonical JSON of ``value`` (sorted keys, no spaces): SHA-256, 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def packaged(name: str) -> Path:
    """Find a folder that ships inside the distribution, e.g. ``tasks``.

    Top-level folders of the checkout (``tasks``, ``baselines``, ``submissions``) are mapped to
    ``medtransfer.<name>``, so the import system knows where they are in every kind of install.
    """
    spec = importlib.util.find_spec(f"medtransfer.{name}")
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise InputError(f"the installation is incomplete: medtransfer.{name} is missing")
    return Path(next(iter(locations)))
