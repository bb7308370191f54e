"""Read checkpoints without running code from them."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medtransfer.core.errors import InputError, reason

# Keys under which training scripts store the weights, in search order.
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "teacher")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a checkpoint, and the architecture's name if stored."""

    path: Path
    tensors: dict[str, Tensor]
    architecture: str | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a ``.safetensors``, ``.pt`` or ``.pth`` file.

    ``torch.load`` always runs with ``weights_only=True``: a pickle may hold tensors and plain
    containers, but no code.

    Raises:
        InputError: For a file that is not a checkpoint, or that runs code when loaded.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a safetensors file: {reason(error)}") from None
        return Checkpoint(path, _tensors(tensors, path), metadata.get("architecture"))
    try:
        # timm's training script stores its arguments in a Namespace, a plain container.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch warns of newer pickles before refusing them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: not a checkpoint, or holds Python objects beside tensors, which are "
            "never unpickled; save model.state_dict() instead"
        ) from None
    except Exception as error:  # the unpickler raises almost anything for bytes that are no pickle
        # Only the archive reader's messages are informative.
        text = f": {' '.join(str(error).split())[:200]}" if isinstance(error, RuntimeError) else ""
        raise InputError(
            f"{path}: not a checkpoint, or truncated{text}; expected: a state dict saved by "
            "torch.save"
        ) from None
    return Checkpoint(path, _tensors(content, path), _named_architecture(content))


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    """Find the flat mapping of names to tensors inside a checkpoint."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        nest = next((key for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            break
        content = content[nest]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise InputError(f"{path}: holds no tensors; a state dict (name to tensor) is expected")
    from timm.models import clean_state_dict

    return dict(clean_state_dict(tensors))


def _named_architecture(content: object) -> str | None:
    if not isinstance(content, Mapping):
        return None
    name = content.get("arch") or content.get("architecture")
    if name is None and isinstance(content.get("args"), argparse.Namespace):
        name = getattr(content["args"], "model", None)
    return name if isinstance(name, str) else None
