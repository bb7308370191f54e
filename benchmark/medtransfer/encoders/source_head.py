"""The classifier of an encoder's pre-training, where it comes with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from medtransfer.encoders.checkpoints import read_checkpoint
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.resolution import Located
from medtransfer.encoders.timm_networks import TimmNetwork

__all__ = ["HEAD", "SourceHead", "find_source_head"]

HEAD = "source_head.safetensors"
"""The file beside an encoder's weights that `bench pretrain` writes."""


@dataclass(frozen=True)
class SourceHead:
    """A linear layer from the encoder's own vectors to the classes of its source.

    Attributes:
        weight: (S, D).
        bias: (S,).
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, vectors: Tensor) -> NDArray[np.float64]:
        """Of vectors (N, D), as `Encoder.represent` gives them, (N, S)."""
        logits = vectors.double().cpu() @ self.weight.double().T + self.bias.double()
        probabilities: NDArray[np.float64] = torch.softmax(logits, dim=1).numpy()
        return probabilities


def find_source_head(located: Located, encoder: Encoder) -> SourceHead | None:
    """The classifier that ``bench pretrain`` kept, or that stands in timm's own weights.

    ``None`` where there is none, or where it is no linear layer on the encoder's vectors.
    """
    if located.weights is not None:
        kept = located.weights.parent / HEAD
        if kept.is_file() and located.card.pretraining.run is not None:
            return _fit(load_file(kept), "", encoder)
    network = encoder.network
    if not isinstance(network, TimmNetwork) or encoder.card.architecture.drop_stages:
        return None
    inner: Any = network.network
    name = inner.pretrained_cfg.get("classifier")
    if not isinstance(name, str):
        return None
    if located.weights is not None:
        return _fit(read_checkpoint(located.weights).tensors, f"{name}.", encoder)
    hub = encoder.card.weights.hub
    if hub is None:
        return None
    whole = timm.create_model(hub, pretrained=True)
    return _fit(whole.state_dict(), f"{name}.", encoder)


def _fit(tensors: dict[str, Tensor], prefix: str, encoder: Encoder) -> SourceHead | None:
    weight, bias = tensors.get(f"{prefix}weight"), tensors.get(f"{prefix}bias")
    if weight is None or weight.ndim != 2 or weight.shape[1] != encoder.width or len(weight) < 2:
        return None
    return SourceHead(weight, bias if bias is not None else torch.zeros(len(weight)))
