"""Where images come from. One module a kind, each with the same two functions.

``identify(source, folder)`` says cheaply which bytes would be decoded, for the key of the store.
``decode(source, folder)`` yields them. A new kind is a class in ``specs/task.py``, a module here
and a line in ``LOADERS``.
"""

from __future__ import annotations

from typing import Any, Protocol

from medtransfer.data.sources import npz, phantom
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.base import Spec
from medtransfer.specs.task import NpzSource, PhantomSource

__all__ = ["LOADERS", "Decoded", "Loader"]


class Loader(Protocol):
    """What a module of this package offers."""

    def identify(self, source: Any, folder: Any, /) -> dict[str, Any]:
        """Say cheaply which bytes would be decoded, as JSON-able values."""

    def decode(self, source: Any, folder: Any, /) -> Decoded:
        """Open the source and return its images as a stream."""


LOADERS: dict[type[Spec], Loader] = {NpzSource: npz, PhantomSource: phantom}
