"""Adaptations: the ways in which an encoder is brought to a task.

One more adaptation is one more entry of ``ADAPTATIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medtransfer.adaptation.finetune import adapt_finetune, finetune_flops
from medtransfer.adaptation.job import Job, Outcome
from medtransfer.adaptation.probes import adapt_knn, adapt_linear, knn_flops, linear_flops
from medtransfer.cost.profile import Profile

__all__ = ["ADAPTATIONS", "Adapter", "Job", "Outcome"]


@dataclass(frozen=True)
class Adapter:
    """An adaptation and the FLOPs that it will take, known before it runs."""

    adapt: Callable[[Job], Outcome]
    flops: Callable[[Job, Profile], int]


ADAPTATIONS: dict[str, Adapter] = {
    "knn": Adapter(adapt_knn, knn_flops),
    "linear": Adapter(adapt_linear, linear_flops),
    "finetune": Adapter(adapt_finetune, finetune_flops),
}
