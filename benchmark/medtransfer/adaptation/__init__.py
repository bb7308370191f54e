"""Adaptations: the ways in which an encoder is brought to a task.

One more adaptation is one more entry of ``ADAPTATIONS`` or ``SEGMENTATION``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medtransfer.adaptation.finetune import (
    adapt_finetune,
    decoder_flops,
    decoder_inference_flops,
    finetune_flops,
)
from medtransfer.adaptation.job import Job, Outcome
from medtransfer.adaptation.probes import adapt_knn, adapt_linear, knn_flops, linear_flops
from medtransfer.cost.profile import Profile

__all__ = ["ADAPTATIONS", "SEGMENTATION", "Adapter", "Job", "Outcome", "find_adapter"]


@dataclass(frozen=True)
class Adapter:
    """An adaptation, and the FLOPs that it and its result's predictions take, known before."""

    adapt: Callable[[Job], Outcome]
    flops: Callable[[Job, Profile], int]
    inference_flops: Callable[[Job, Profile], int]


def _head_flops(job: Job, profile: Profile) -> int:
    return profile.forward + 2 * profile.width * job.classes


ADAPTATIONS: dict[str, Adapter] = {
    "knn": Adapter(adapt_knn, knn_flops, _head_flops),
    "linear": Adapter(adapt_linear, linear_flops, _head_flops),
    "finetune": Adapter(adapt_finetune, finetune_flops, _head_flops),
}
_SEGMENTATION = Adapter(adapt_finetune, decoder_flops, decoder_inference_flops)
SEGMENTATION: dict[str, Adapter] = {"decoder": _SEGMENTATION, "finetune": _SEGMENTATION}


def find_adapter(kind: str, name: str) -> Adapter:
    """The adaptation of a name for a kind of task."""
    return (SEGMENTATION if kind == "segmentation" else ADAPTATIONS)[name]
