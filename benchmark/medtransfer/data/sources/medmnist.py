"""MedMNIST+: one official ``.npz`` file for each data set and size (Yang et al., 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtransfer.data import official
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.sources.decoded import Decoded
from medtransfer.data.sources.npz import open_official
from medtransfer.specs.source import MedmnistSource


def files(source: MedmnistSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Name the file of the source's size.

    Raises:
        InputError: For an unknown data set.
    """
    # The file of 28 pixels is older than the others and has no size in its name.
    size = "" if source.size == 28 else f"_{source.size}"
    name = f"{source.medmnist}{size}.npz"
    entry = _find(source)
    return [entry.remote_file(name, size=source.size, folder="medmnist", masks=False)]


def identify(source: MedmnistSource, folder: Path | None, /) -> dict[str, Any]:
    """Return the published MD5, which stays valid after the download is deleted."""
    return {"md5": _find(source).md5[source.size]}


def decode(source: MedmnistSource, folder: Path | None, /) -> Decoded:
    """Open one split as a stream; the names of the labels are the official ones.

    Images are never resized. A file of enlarged small images cannot pass for the official one:
    ``obtain`` verifies the published checksum.

    Raises:
        InputError: For a file that is missing, damaged, or not of the official shape.
    """
    [file] = files(source)
    return open_official(_find(source), file, folder, split=source.split, size=source.size)


def _find(source: MedmnistSource) -> official.ArraySet:
    return official.find_set(official.array_sets("medmnist"), source.medmnist, kind="medmnist")
