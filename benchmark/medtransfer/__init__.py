"""Does a pre-trained image encoder transfer to medical imaging, and at what compute cost?

The names below are the public Python interface. They are imported when first used, so that
``import medtransfer`` (and with it the command line) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medtransfer.core.version import __version__ as __version__

if TYPE_CHECKING:
    from medtransfer.encoders.loading import load_encoder
    from medtransfer.encoders.registry import register
    from medtransfer.evaluation.evaluate import evaluate
    from medtransfer.ranking import leaderboard
    from medtransfer.specs.encoder import EncoderCard
    from medtransfer.specs.record import Record

__all__ = ["EncoderCard", "Record", "evaluate", "leaderboard", "load_encoder", "register"]

_HOME = {
    "EncoderCard": "medtransfer.specs.encoder",
    "Record": "medtransfer.specs.record",
    "evaluate": "medtransfer.evaluation.evaluate",
    "leaderboard": "medtransfer.ranking",
    "load_encoder": "medtransfer.encoders.loading",
    "register": "medtransfer.encoders.registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'medtransfer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
