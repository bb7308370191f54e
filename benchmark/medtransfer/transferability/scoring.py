"""Scores of one encoder on one task as records."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
    """A score to compute.

    Attributes:
        name: Name of the score.
        fingerprint: Hash of all that decides the value besides the encoder and the task.
        compute: Computes the value; raises `Undefined` if there is none.
        options: Fixed values, for the record.
        needs: Names of the inputs, whose FLOPs the record includes.
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
    """Plan the scores for a kind of task."""
    return [
        _plan(score, protocol.scores, protocol, head) for score in scores if kind in score.kinds
    ]


def plan_sweep(score: Score, protocol: Protocol) -> list[Planned]:
    """Plan the robustness at every level, pooled or not, with every distance and margin.

    The protocol's own values are left out, because they are the score itself.
    """
    sweep = []
    for pooled, level, distance, margin in product((True, False), range(4), DISTANCES, MARGINS):
        update = {"level": level, "pooled": pooled, "distance": distance, "margin": margin}
        settings = protocol.scores.model_copy(update=update)
        if settings == protocol.scores:
            continue
        planned = _plan(score, settings, protocol, None)
        name = f"{score.name}[{level},{'pooled' if pooled else 'map'},{distance},{margin:g}]"
        options = {**planned.options, "level": level, "pooled": pooled}
        sweep.append(replace(planned, name=name, options=options))
    return sweep


def plan_source(protocol: Protocol) -> Planned:
    """Plan the accuracy on the classes of pre-training, which scores no target task."""
    return Planned(
        name=_SOURCE_ACCURACY,
        fingerprint=digest([_SOURCE_ACCURACY, 1, protocol.max_size]),
        compute=_measure_source,
    )


def _plan(score: Score, settings: ScoreSettings, protocol: Protocol, head: str | None) -> Planned:
    options = score.options(settings)

    def run(inputs: ScoreInputs) -> float:
        return compute(score, {name: inputs.get(name, settings) for name in score.needs}, options)

    fingerprint = score.fingerprint(settings, max_size=protocol.max_size, head=head)
    return Planned(score.name, fingerprint, run, options, score.needs, settings.pooled)


def compute(score: Score, inputs: dict[str, Any], options: dict[str, Any]) -> float:
    """Compute a score of given arrays; with several labels the mean over defined values.

    Args:
        score: The score.
        inputs: Arrays by the score's parameters; labels (N,), or (N, L) with 1, 0 and -1 (unknown).
        options: Fixed values of the score.
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
        raise Undefined(f"for every label: {reason}")
    return float(np.mean(values))


def _finite(value: object) -> float:
    if not isinstance(value, int | float | np.number):
        raise TypeError(f"returned {type(value).__name__}; a number is expected")
    if not math.isfinite(value):
        raise Undefined(f"the value is {value}")
    return float(value)


def _measure_source(inputs: ScoreInputs) -> float:
    """Balanced accuracy on validation images, each classified by its nearest training image."""
    if inputs.data.card.kind != "multiclass":
        raise Undefined("the images of the source have no single class")
    train, validation = (inputs.data.splits[name] for name in ("train", "validation"))
    known, queries = (frozen_features(inputs.encoder, split) for split in (train, validation))
    parts = np.array_split(queries, math.ceil(len(queries) / 2048))
    nearest = np.concatenate([(part @ known.T).argmax(axis=1) for part in parts])
    right = train.labels[nearest] == validation.labels
    classes = np.unique(validation.labels)
    return float(np.mean([right[validation.labels == label].mean() for label in classes]))


def score_all(
    inputs: ScoreInputs, planned: Sequence[Planned], protocol: Protocol
) -> Iterator[ScoreRecord]:
    """Compute planned scores one after another."""
    for plan in planned:
        clock, value, reason = time.perf_counter(), None, None
        try:
            value = plan.compute(inputs)
        except Undefined as error:
            reason = str(error)
        except Exception as error:
            raise RunError(
                f"{inputs.encoder.card.name}: score {plan.name} of {inputs.data.card.name} "
                f"failed: {describe(error)}"
            ) from error
        yield _record(inputs, protocol, plan, value, reason, time.perf_counter() - clock)


def _record(
    inputs: ScoreInputs,
    protocol: Protocol,
    plan: Planned,
    value: float | None,
    reason: str | None,
    seconds: float,
) -> ScoreRecord:
    encoder, card = inputs.encoder, inputs.data.card
    images = [inputs.images(name, pooled=plan.pooled) for name in plan.needs]
    flops = sum(inputs.flops(name, pooled=plan.pooled) for name in plan.needs)
    return ScoreRecord(
        encoder=EncoderRef(name=encoder.card.name, sha256=encoder.identity),
        task=TaskRef(
            name=card.name,
            fingerprint=inputs.data.fingerprint,
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
