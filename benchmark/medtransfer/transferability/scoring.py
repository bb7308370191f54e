"""Scores of one encoder on one task, as records."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from medtransfer.cost.machine import device_name, versions
from medtransfer.encoders.features import frozen_features
from medtransfer.specs.base import digest
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.record import EncoderRef, TaskRef
from medtransfer.specs.score import ScoreRecord
from medtransfer.transferability.material import Material
from medtransfer.transferability.registry import Score, Undefined
from medtransfer.transferability.robustness import DISTANCES

__all__ = [
    "MARGINS",
    "SOURCE_ACCURACY",
    "accuracy_on_source",
    "compute",
    "score_task",
    "sweep",
]

MARGINS = (0.0, 0.25, 0.5, 0.75, 1.0)


def compute(score: Score, inputs: dict[str, Any], options: dict[str, Any]) -> float:
    """A score of given arrays; of several labels the mean over those that have one.

    Args:
        score: The score.
        inputs: By the names of its parameters; labels (N,), or (N, L) with 1, 0 and -1 for unknown.
        options: Its fixed values.

    Raises:
        Undefined: Where it has no finite value.
    """
    labels = inputs.get("labels")
    if labels is None or labels.ndim == 1:
        return _finite(score.function(**inputs, **options))
    values = []
    for column in labels.T:
        known = column >= 0
        own = {name: column[known] if name == "labels" else a[known] for name, a in inputs.items()}
        try:
            values.append(_finite(score.function(**own, **options)))
        except Undefined as error:
            reason = error
    if not values:
        raise Undefined(f"for no label: {reason}")
    return float(np.mean(values))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Undefined(f"it comes to {value}")
    return float(value)


def score_task(
    material: Material,
    scores: Sequence[Score],
    protocol: Protocol,
) -> Iterator[ScoreRecord]:
    """Compute scores one after another; those of another kind of task are passed over."""
    kind = material.data.card.kind
    for score in scores:
        if kind not in score.kinds:
            continue
        options = score.options(protocol.scores)
        fingerprint = score.fingerprint(protocol.scores, max_size=protocol.max_size)
        clock, value, reason = time.perf_counter(), None, None
        try:
            inputs = {name: material.get(name) for name in score.needs}
            value = compute(score, inputs, options)
        except Undefined as error:
            reason = str(error)
        yield _record(
            material,
            protocol,
            score=score.name,
            fingerprint=fingerprint,
            options=options,
            value=value,
            undefined=reason,
            images=min((material.images(name) for name in score.needs), default=0),
            flops=sum(material.flops(name) for name in score.needs) if reason is None else 0,
            seconds=round(time.perf_counter() - clock, 4),
        )


def sweep(material: Material, score: Score, protocol: Protocol) -> Iterator[ScoreRecord]:
    """The contrastive robustness at every level, pooled or not, distance and margin."""
    settings = protocol.scores
    for level in range(4):
        for pooled in (True, False):
            for distance in DISTANCES:
                for margin in MARGINS:
                    own = settings.model_copy(
                        update={
                            "level": level,
                            "pooled": pooled,
                            "distance": distance,
                            "margin": margin,
                        }
                    )
                    clock, value, reason = time.perf_counter(), None, None
                    options = score.options(own)
                    try:
                        views = material.views(level, pooled=pooled)
                        value = compute(score, {"views": views}, options)
                    except Undefined as error:
                        reason = str(error)
                    name = f"{score.name}[{level},{'pooled' if pooled else 'map'},{distance},"
                    yield _record(
                        material,
                        protocol,
                        score=f"{name}{margin:g}]",
                        fingerprint=score.fingerprint(own, max_size=protocol.max_size),
                        options={**options, "level": level, "pooled": pooled},
                        value=value,
                        undefined=reason,
                        images=material.images("views"),
                        flops=material.flops("views") if reason is None else 0,
                        seconds=round(time.perf_counter() - clock, 4),
                    )
            material.forget_views()


SOURCE_ACCURACY = "source_accuracy"


def accuracy_on_source(material: Material, protocol: Protocol) -> ScoreRecord:
    """How well an encoder tells the classes of its own pre-training: no score of any target.

    Balanced accuracy on the source's validation images, each by its nearest training image.
    """
    clock, value, reason = time.perf_counter(), None, None
    train, validation = (material.data.splits[name] for name in ("train", "validation"))
    if material.data.card.kind == "multiclass":
        own, others = (frozen_features(material.encoder, s) for s in (train, validation))
        nearest = np.concatenate(
            [
                (part @ own.T).argmax(axis=1)
                for part in np.array_split(others, -(-len(others) // 2048))
            ]
        )
        right = train.labels[nearest] == validation.labels
        classes = np.unique(validation.labels)
        value = float(np.mean([right[validation.labels == label].mean() for label in classes]))
    else:
        reason = "its images have no single class"
    return _record(
        material,
        protocol,
        score=SOURCE_ACCURACY,
        fingerprint=digest([SOURCE_ACCURACY, 1, protocol.max_size]),
        value=value,
        undefined=reason,
        images=len(train),
        flops=material.flops("features") * (len(train) + len(validation)) // len(train),
        seconds=round(time.perf_counter() - clock, 4),
    )


def _record(material: Material, protocol: Protocol, **fields: Any) -> ScoreRecord:
    encoder, card = material.encoder, material.data.card
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
        environment={
            **versions(),
            "precision": encoder.precision,
            "input_size": encoder.size,
            "device": device_name(encoder.device),
            "threads": torch.get_num_threads(),
        },
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        **fields,
    )
