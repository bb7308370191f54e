"""MedSegBench: one official ``.npz`` file for each data set and size (Kuş and Aydin, 2024).

The layout is MedMNIST's, with the masks in ``<split>_label``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.data import official
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.sources.decoded import Decoded
from medtransfer.data.sources.npz import open_official
from medtransfer.specs.source import MedsegbenchSource


def files(source: MedsegbenchSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Name the file of the source's size.

    Raises:
        InputError: For an unknown data set.
    """
    name = f"{source.medsegbench}_{source.size}.npz"
    entry = _find(source)
    return [entry.remote_file(name, size=source.size, folder="medsegbench", masks=True)]


def identify(source: MedsegbenchSource, folder: Path | None, /) -> dict[str, Any]:
    """Return the published MD5, which stays valid after the download is deleted."""
    return {"md5": _find(source).md5[source.size]}


def decode(source: MedsegbenchSource, folder: Path | None, /) -> Decoded:
    """Open one split as a stream of images and one of masks.

    Raises:
        InputError: For a file that is missing, damaged, or not of the official shape.
    """
    [file] = files(source)
    entry = _find(source)
    decoded = open_official(
        entry, file, folder, split=source.split, size=source.size, masks="label"
    )
    # Some official sets of two classes mark the foreground by any value but 0.
    if decoded.masks is not None and len(entry.labels) == 2:
        decoded = replace(decoded, masks=_binarise(decoded.masks))
    return decoded


def _binarise(batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for batch in batches:
        yield (batch != 0).astype(np.uint8)


def _find(source: MedsegbenchSource) -> official.ArraySet:
    sets = official.array_sets("medsegbench")
    return official.find_set(sets, source.medsegbench, kind="medsegbench")
