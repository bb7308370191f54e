"""Adaptations of an encoder to a task: probes, fine-tuning, LoRA, the decoder.

To add one, add an entry to ``ADAPTATIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from medtransfer.adaptation.finetune import adapt_finetune, finetune_flops, profile_learner
from medtransfer.adaptation.job import Job, Outcome
from medtransfer.adaptation.probes import adapt_knn, adapt_linear, knn_flops, linear_flops
from medtransfer.cost.profile import Profile, profile_encoder

__all__ = ["ADAPTATIONS", "Adapter", "Job", "Outcome"]


@dataclass(frozen=True)
class Adapter:
    """An adaptation and its predicted cost.

    Attributes:
        adapt: Runs the adaptation.
        profile: Cost per image.
        flops: FLOPs of the whole adaptation, from that profile.
        inference_flops: FLOPs of predicting one image, from that profile.
    """

    adapt: Callable[[Job], Outcome]
    profile: Callable[[Job], Profile]
    flops: Callable[[Job, Profile], int]
    inference_flops: Callable[[Job, Profile], int]


def _profile_probed(job: Job) -> Profile:
    return profile_encoder(job.encoder)


def _probe_flops(job: Job, profile: Profile) -> int:
    return profile.forward + 2 * profile.width * job.classes


def _learner_flops(_: Job, profile: Profile) -> int:
    return profile.forward


_TRAINING = Adapter(adapt_finetune, profile_learner, finetune_flops, _learner_flops)

ADAPTATIONS: dict[str, Adapter] = {
    "knn": Adapter(adapt_knn, _profile_probed, knn_flops, _probe_flops),
    "linear": Adapter(adapt_linear, _profile_probed, linear_flops, _probe_flops),
    "decoder": _TRAINING,
    "partial": _TRAINING,
    "lora": _TRAINING,
    "finetune": _TRAINING,
}
