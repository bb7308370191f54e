"""Gradient training with a fixed number of steps; one loop for classes and masks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medtransfer.adaptation.job import Job, Outcome
from medtransfer.adaptation.learner import Classifier, Learner, PixelClassifier
from medtransfer.adaptation.optimiser import build_optimiser
from medtransfer.adaptation.trainable import prepare_encoder
from medtransfer.core.seeds import seed_of
from medtransfer.cost.profile import Profile, profile_encoder
from medtransfer.data.draws import hold_out, strata
from medtransfer.encoders.memory import out_of_memory, release_memory
from medtransfer.specs.protocol import HELD_OUT


def adapt_finetune(job: Job) -> Outcome:
    """Train a head and the adaptation's part of the encoder, at the best learning rate.

    The learning rate is selected inside the budget. Few-shot: each one is trained on 80 % of the
    shots and scored on the rest, then the best is trained again on all. Full: each is scored
    on the official validation split and the best run is the result; later draws reuse the
    learning rate of draw 0.
    """
    train, validation = job.data.splits["train"], job.data.splits["validation"]
    rates = job.training.rates
    seen, micro_batch = 0, batch_size(job)
    if len(rates) == 1:
        best, selected = None, {"lr": rates[0]}
    else:
        if job.shots is None:
            fitted, scored_split, scored = job.items, validation, np.arange(len(validation))
        else:
            held = hold_out(strata(job.labels), HELD_OUT)
            fitted, scored_split, scored = job.items[~held], train, job.items[held]
        runs = []
        for rate in rates:
            learner, images = _train(job, fitted, rate, micro_batch=micro_batch)
            seen += images
            if learner is not None:
                micro_batch = learner.micro_batch
                score = learner.score(learner.predict(scored_split, scored), scored_split, scored)
                if score is not None:
                    runs.append((score, rate, learner))
        if not runs:
            return _diverged(job, seen, {"lr": None, "tried": rates})
        score, rate, best = max(runs, key=lambda run: _rank(run[0]))
        selected = {"lr": rate, **score}
    if best is None or job.training.refits:
        best, images = _train(job, job.items, selected["lr"], micro_batch=micro_batch)
        seen += images
        if best is None:
            return _diverged(job, seen, selected)
        micro_batch = best.micro_batch
    predictions = {name: best.predict(split) for name, split in job.data.tests.items()}
    if not all(np.isfinite(array).all() for array in predictions.values()):
        return _diverged(job, seen, selected)
    return replace(_outcome(best, predictions, selected, seen), micro_batch=micro_batch)


def _rank(score: dict[str, float]) -> tuple[float, float]:
    """Return the key by which scores are compared: the metric, then a smaller loss."""
    return score["validation"], -score.get("validation_log_loss", 0.0)


def _build(job: Job) -> Learner:
    """Build an untrained learner of the task's kind, with its own copy of the encoder."""
    card = job.data.card
    maps = card.kind == "segmentation"
    encoder = prepare_encoder(job.encoder, job.adaptation, job.protocol, maps=maps)
    if not maps:
        return Classifier(encoder, job.classes, job.targets)
    seed = seed_of("decoder", card.name, job.budget, job.draw)
    return PixelClassifier(encoder, job.classes, seed=seed)


def _train(
    job: Job, items: NDArray[np.int64], rate: float, *, micro_batch: int | None = None
) -> tuple[Learner | None, int]:
    """Train on some items of the training split.

    Args:
        job: The cell.
        items: Indices into the training split.
        rate: The learning rate.
        micro_batch: Images per forward pass, by default all of a batch; fewer if the
            memory is too small.

    Returns:
        The classifier, or ``None`` when its loss became NaN, and the number of images seen.
    """
    seed = seed_of("finetune", job.data.card.name, job.budget, job.draw)
    device = job.encoder.device
    micro_batch = micro_batch or batch_size(job)
    while True:
        # Dropout and stochastic depth, which timm's Swin has by default, use only the global
        # generator: seed it for this run, and restore it afterwards.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            try:
                return _train_seeded(job, items, rate, generator, micro_batch=micro_batch)
            except Exception as error:
                if not out_of_memory(error) or micro_batch == 1:
                    raise
        # Here nothing holds the failed step's tensors any more. Start again from the first step,
        # since the failed one changed running statistics; it is nearly always the first.
        micro_batch //= 2
        release_memory()


def _train_seeded(
    job: Job, items: NDArray[np.int64], rate: float, generator: torch.Generator, *, micro_batch: int
) -> tuple[Learner | None, int]:
    settings, run, split = job.training.settings, job.training.run, job.data.splits["train"]
    learner = _build(job)
    learner.micro_batch = micro_batch
    steps = run.length(len(items))
    optimiser, schedule = build_optimiser(learner, settings, rate, steps)
    epoch = -(-len(items) // run.batch)
    keep_best = settings.keep == "best" and job.shots is None
    best: tuple[tuple[float, float], dict[str, Tensor]] | None = None

    learner.train()
    for step, batch in enumerate(_batches(items, run.batch, steps, generator), start=1):
        pixels = learner.encoder.resample(torch.from_numpy(split.images[batch]))
        truth = learner.truth(split, batch)
        if settings.augmentation is not None:
            pixels, truth = learner.augment(
                pixels, truth, settings.augmentation, flip=job.data.card.flip, generator=generator
            )
        optimiser.zero_grad()
        if not _backward(learner, pixels, truth):
            return None, step * run.batch
        optimiser.step()
        schedule.step()
        if keep_best and (step % epoch == 0 or step == steps):
            validation = job.data.splits["validation"]
            every = np.arange(len(validation))
            score = learner.score(learner.predict(validation), validation, every)
            if score is not None and (best is None or _rank(score) > best[0]):
                best = (_rank(score), copy.deepcopy(learner.state_dict()))
            learner.train()
    if best is not None:
        learner.load_state_dict(best[1])
    optimiser.zero_grad()  # the next learning rate needs the memory
    return learner, steps * run.batch


def _backward(learner: Learner, pixels: Tensor, truth: Tensor) -> bool:
    """Accumulate a batch's gradients over micro-batches; return whether its loss is finite.

    Batch norm uses the statistics of each micro-batch.
    """
    count = -(
        -len(pixels) // learner.micro_batch
    )  # of equal size: batch norm needs more than one image
    parts = (torch.tensor_split(tensor, count) for tensor in (pixels, truth))
    for images, labels in zip(*parts, strict=True):
        loss = learner.loss(learner(images), labels)
        if not math.isfinite(loss.item()):
            return False
        (loss * (len(images) / len(pixels))).backward()  # type: ignore[no-untyped-call]
    return True


def _batches(
    items: NDArray[np.int64], size: int, steps: int, generator: torch.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield equal batches of shuffled passes over the items; few shots are repeated often."""
    queue = np.empty(0, np.int64)
    for _ in range(steps):
        while len(queue) < size:
            queue = np.concatenate(
                [queue, items[torch.randperm(len(items), generator=generator).numpy()]]
            )
        # Sorted rows are read faster from a memory map; order within a batch does not matter.
        yield np.sort(queue[:size])
        queue = queue[size:]


def _diverged(job: Job, seen: int, selected: dict[str, Any]) -> Outcome:
    return replace(_outcome(build_learner(job), {}, selected, seen), diverged=True)


def _outcome(
    learner: Learner, predictions: dict[str, NDArray[Any]], selected: dict[str, Any], seen: int
) -> Outcome:
    sizes = [(p.numel(), p.requires_grad) for p in learner.parameters()]
    return Outcome(
        predictions=predictions,
        selected=selected,
        images_seen=seen,
        trainable_parameters=sum(size for size, learns in sizes if learns),
        parameters=sum(size for size, _ in sizes),
    )


def build_learner(job: Job) -> Learner:
    """Build an untrained learner for inspection; leave torch's global generator alone."""
    with torch.random.fork_rng(devices=[]):
        return _build(job)


def profile_learner(job: Job) -> Profile:
    """Count the FLOPs of the encoder with its head; frozen parts have no backward pass."""
    learner = build_learner(job)
    return profile_encoder(learner.encoder, learner)


def finetune_flops(job: Job, profile: Profile) -> int:
    """Count all training steps, of selection and of the result, and the scoring passes."""
    held_out = int(hold_out(strata(job.labels), HELD_OUT).sum()) if job.training.refits else 0
    validation = len(job.data.splits["validation"])
    trained, scored = job.training.count_images(
        len(job.items), held_out=held_out, validation=validation
    )
    return profile.training * trained + profile.forward * scored


def batch_size(job: Job) -> int:
    """Return the number of images of a training step."""
    return job.training.run.batch
