"""Phantoms: images drawn by code, with a known truth."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medtransfer import phantoms
from medtransfer.core.errors import InputError
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import PhantomSource


@cache
def _generator_version() -> str:
    """Hash the generator's source code, so that changed code never reads a stale cache."""
    paths = sorted(Path(phantoms.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def files(source: PhantomSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Return no files: phantoms are never downloaded."""
    return []


def identify(source: PhantomSource, folder: Path | None, /) -> dict[str, Any]:
    """Return the generator's version; the card holds the rest."""
    return {"generator": _generator_version()}


def decode(source: PhantomSource, folder: Path | None, /) -> Decoded:
    """Draw the split.

    Raises:
        InputError: For an unknown phantom, or one without masks where masks are wanted.
    """
    try:
        drawn = phantoms.generate(
            source.phantom,
            split=source.split,
            items=source.items,
            scanner=source.scanner,
            size=source.size,
        )
    except ValueError as error:
        raise InputError(f"phantom: {error}") from None
    kind = phantoms.PHANTOMS[source.phantom]
    decoded = Decoded(
        origin=f"phantom {source.phantom}",
        shape=drawn.images.shape,
        images=[drawn.images],
        labels=drawn.labels,
        ids=drawn.ids,
        label_names=list(kind.classes),
    )
    if source.truth == "classes":
        return decoded
    if drawn.masks is None:
        masked = ", ".join(name for name, other in phantoms.PHANTOMS.items() if other.regions)
        raise InputError(f"truth: phantom {source.phantom} has no masks; available in: {masked}")
    return replace(
        decoded,
        labels=np.empty((source.items, 0), np.int64),
        masks=[drawn.masks],
        label_names=list(kind.regions),
    )
