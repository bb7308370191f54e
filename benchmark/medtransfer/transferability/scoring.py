"""Compute the scores of one encoder on one task, as records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any

import numpy as np
import torch

from medtransfer.core.documents import digest
from medtransfer.core.errors import RunError, describe
from medtransfer.cost.machine import device_name, versions
from medtransfer.encoders.features import frozen_features
from medtransfer.specs.protocol import Protocol, ScoreSettings
from medtransfer.specs.record import EncoderRef, TaskRef
from medtransfer.specs.score import ScoreRecord
from medtransfer.transferability.inputs import ScoreInputs
from medtransfer.transferability.registry import Score, Undefined
from medtransfer.transferability.robustness import DISTANCES

MARGINS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SOURCE_ACCURACY = "source_accuracy"


@dataclass(frozen=True)
class Planned:
    """A number to compute.

    Attributes:
        name: Name of the score.
        fingerprint: Hash of all that decides the number, except the encoder's vectors and the task.
        compute: Computes the number; raises `Undefined` if it has no value.
        options: Fixed values, for the record.
        needs: Inputs whose encoder passes count as its cost.
        pooled: Whether views are averaged over space.
    """

    name: str
    fingerprint: str
    compute: Callable[[ScoreInputs], float]
    options: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ("features",)
    pooled: bool = True


def plan_scores(
    scores: Sequence[Score], protocol: Protocol, *, kind: str, head: str | None
) -> list[Planned]:
    """Plan the scores that are defined for a kind of task."""
    return [
        _plan(score, protocol.scores, protocol, head) for score in scores if kind in score.kinds
    ]


def plan_sweep(score: Score, protocol: Protocol) -> list[Planned]:
    """Plan contrastive robustness at every level, pooled or not, distance and margin.

    The values of the protocol are left out: they are the score itself.
    """
    plans = []
    fixed = protocol.scores
    for pooled, level, distance, margin in product((True, False), range(4), DISTANCES, MARGINS):
        changed = {"level": level, "pooled": pooled, "distance": distance, "margin": margin}
        settings = fixed.model_copy(update=changed)
        if settings == fixed:
            continue
        where = "pooled" if pooled else "map"
        planned = _plan(score, settings, protocol, None)
        name = f"{score.name}[{level},{where},{distance},{margin:g}]"
        plans.append(
            Planned(
                name=name,
                fingerprint=planned.fingerprint,
                compute=planned.compute,
                options={**planned.options, "level": level, "pooled": pooled},
                needs=planned.needs,
                pooled=pooled,
            )
        )
    return plans


def plan_source(protocol: Protocol) -> Planned:
    """Plan the accuracy on the classes of pre-training, which is no score of a target."""
    return Planned(
        name=_SOURCE_ACCURACY,
        fingerprint=digest([_SOURCE_ACCURACY, 1, protocol.max_size]),
        compute=_measure_source,
    )


def _plan(score: Score, settings: ScoreSettings, protocol: Protocol, head: str | None) -> Planned:
    options = score.options(settings)

    def run(material: ScoreInputs) -> float:
        inputs = {
            name: material.views(settings.level, pooled=settings.pooled)
            if name == "views"
            else material.get(name)
            for name in score.needs
        }
        return compute(score, inputs, options)

    fingerprint = score.fingerprint(settings, max_size=protocol.max_size, head=head)
    return Planned(score.name, fingerprint, run, options, score.needs, settings.pooled)


def compute(score: Score, inputs: dict[str, Any], options: dict[str, Any]) -> float:
    """Compute a score of given arrays; for several labels, the mean of the defined ones.

    Args:
        score: The score.
        inputs: Arrays by parameter; labels are (N,), or (N, L) with 1, 0 and -1 for unknown.
        options: The fixed values.

    Raises:
        Undefined: When it has no finite value.
    """
    labels = inputs.get("labels")
    if labels is None or labels.ndim == 1:
        return _finite(score.function(**inputs, **options))
    values = []
    for column in labels.T:
        arrays = {**inputs, "labels": column}
        if (column < 0).any():
            arrays = {name: array[column >= 0] for name, array in arrays.items()}
        try:
            values.append(_finite(score.function(**arrays, **options)))
        except Undefined as error:
            reason = error
    if not values:
        raise Undefined(f"for no label: {reason}")
    return float(np.mean(values))


def _finite(value: object) -> float:
    if not isinstance(value, int | float | np.number):
        raise TypeError(f"it returned {type(value).__name__}; a number is expected")
    if not math.isfinite(value):
        raise Undefined(f"it comes to {value}")
    return float(value)


def _measure_source(material: ScoreInputs) -> float:
    """Compute the balanced accuracy on validation images by the nearest training image."""
    if material.data.card.kind != "multiclass":
        raise Undefined("the images of the source have no single class")
    train, validation = (material.data.splits[name] for name in ("train", "validation"))
    train_vectors, others = (
        frozen_features(material.encoder, split) for split in (train, validation)
    )
    parts = np.array_split(others, -(-len(others) // 2048))
    nearest = np.concatenate([(part @ train_vectors.T).argmax(axis=1) for part in parts])
    right = train.labels[nearest] == validation.labels
    classes = np.unique(validation.labels)
    return float(np.mean([right[validation.labels == label].mean() for label in classes]))


def score_all(
    material: ScoreInputs, planned: Sequence[Planned], protocol: Protocol
) -> Iterator[ScoreRecord]:
    """Compute planned numbers, one after another.

    Raises:
        RunError: When a score fails in another way than by having no value.
    """
    for plan in planned:
        clock, value, reason = time.perf_counter(), None, None
        try:
            value = plan.compute(material)
        except Undefined as error:
            reason = str(error)
        except Exception as error:
            raise RunError(
                f"{material.encoder.card.name}: score {plan.name} of {material.data.card.name} "
                f"failed: {describe(error)}"
            ) from error
        yield _record(material, protocol, plan, value, reason, time.perf_counter() - clock)


def _record(
    material: ScoreInputs,
    protocol: Protocol,
    plan: Planned,
    value: float | None,
    reason: str | None,
    seconds: float,
) -> ScoreRecord:
    encoder, card = material.encoder, material.data.card
    images = [material.images(name, pooled=plan.pooled) for name in plan.needs]
    flops = sum(material.flops(name, pooled=plan.pooled) for name in plan.needs)
    return ScoreRecord(
        encoder=EncoderRef(name=encoder.card.name, sha256=encoder.identity),
        task=TaskRef(
            name=card.name,
            fingerprint=material.data.fingerprint,
            domain=card.domain,
            kind=card.kind,
            metric=card.metric,
            chance=card.chance,
        ),
        protocol=protocol.name,
        score=plan.name,
        fingerprint=plan.fingerprint,
        options=plan.options,
        value=value,
        undefined=reason,
        images=min(images, default=0),
        flops=flops if reason is None else 0,
        seconds=round(seconds, 4),
        environment={
            **versions(),
            "precision": encoder.precision,
            "input_size": encoder.size,
            "device": device_name(encoder.device),
            "threads": torch.get_num_threads(),
        },
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
