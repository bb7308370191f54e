"""Loaders of each kind of source, modules with the same three functions.

``files(source, folder)`` names the published files to read. ``identify(source, folder)``
identifies the bytes cheaply, for the key of the store. ``decode(source, folder)`` decodes them.
A new kind is a class in ``specs/source.py``, a module here and a line in ``LOADERS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.sources import (
    decathlon,
    folder,
    medmnist,
    medsegbench,
    npz,
    phantom,
    torchvision,
)
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import (
    DecathlonSource,
    FolderSource,
    MedmnistSource,
    MedsegbenchSource,
    NpzSource,
    PhantomSource,
    Source,
    TorchvisionSource,
)


class Loader(Protocol):
    """Interface of a module that reads a kind of source."""

    def files(self, source: Any, folder: Any = None, /) -> Sequence[RemoteFile]:
        """Name the published files to read; none where ``folder`` holds them unpacked."""

    def identify(self, source: Any, folder: Any, /) -> dict[str, Any]:
        """Identify the bytes to be decoded, cheaply, as JSON-able values."""

    def decode(self, source: Any, folder: Any, /) -> Decoded:
        """Open the source and return its images as a stream."""


LOADERS: dict[type[Source], Loader] = {
    NpzSource: npz,
    PhantomSource: phantom,
    MedmnistSource: medmnist,
    MedsegbenchSource: medsegbench,
    TorchvisionSource: torchvision,
    FolderSource: folder,
    DecathlonSource: decathlon,
}
