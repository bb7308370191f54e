"""Classifier of an encoder's supervised pre-training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from medtransfer.core.errors import InputError, reason
from medtransfer.encoders.checkpoints import read_checkpoint
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.encoders.timm_networks import TimmNetwork

HEAD = "source_head.safetensors"
"""The file beside an encoder's weights that `bench pretrain` writes."""


@dataclass(frozen=True)
class SourceHead:
    """Linear layer from the encoder's vectors to the classes of its pre-training.

    Attributes:
        weight: (S, D).
        bias: (S,).
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, vectors: Tensor) -> NDArray[np.float64]:
        """Compute probabilities (N, S) of vectors (N, D) from `Encoder.represent`."""
        logits = vectors.double().cpu() @ self.weight.double().T + self.bias.double()
        probabilities: NDArray[np.float64] = torch.softmax(logits, dim=1).numpy()
        return probabilities


def head_identity(located: EncoderSource) -> str | None:
    """Return the SHA-256 of a classifier kept by ``bench pretrain``; timm's are in the weights."""
    run = located.card.pretraining.run
    return run.source_head if run is not None else None


def find_source_head(located: EncoderSource, encoder: Encoder) -> SourceHead | None:
    """Find the classifier kept by ``bench pretrain``, or the one in timm's weights.

    ``None`` if there is none, or if it is not a linear layer on the encoder's vectors.

    Raises:
        InputError: When the kept classifier is missing or has another hash.
    """
    if (kept := head_identity(located)) is not None:
        if located.weights is None:
            raise InputError(
                f"{located.card.name}: pretraining.run.source_head: requires weights.path"
            )
        return _fit(_read_kept(located.weights.parent / HEAD, kept), "", encoder)
    network = encoder.network
    if not isinstance(network, TimmNetwork) or encoder.card.architecture.drop_stages:
        return None
    inner: Any = network.network
    name = inner.pretrained_cfg.get("classifier")
    hub = encoder.card.weights.hub
    if not isinstance(name, str) or "clip" in f"{encoder.card.architecture.timm} {hub}":
        return None  # CLIP's head is a projection, not a classifier
    if located.weights is not None:
        return _fit(read_checkpoint(located.weights).tensors, f"{name}.", encoder)
    if hub is None:
        return None
    import timm

    return _fit(timm.create_model(hub, pretrained=True).state_dict(), f"{name}.", encoder)


def _read_kept(path: Path, sha256: str) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"{path}: SHA-256 differs from the one in encoder.yaml; the file is damaged"
        )
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from None


def _fit(tensors: dict[str, Tensor], prefix: str, encoder: Encoder) -> SourceHead | None:
    weight, bias = tensors.get(f"{prefix}weight"), tensors.get(f"{prefix}bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != encoder.width or len(weight) < 2:
        return None
    if bias is None:
        bias = torch.zeros(len(weight))
    return SourceHead(weight, bias) if bias.shape == (len(weight),) else None
