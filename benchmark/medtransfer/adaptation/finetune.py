"""Fine-tuning: all parameters, a fixed number of steps, one loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from medtransfer.adaptation.augmentation import augment
from medtransfer.adaptation.job import Job, Outcome
from medtransfer.adaptation.targets import Targets
from medtransfer.cost.profile import Profile
from medtransfer.data.draws import hold_out, seed_of, strata
from medtransfer.data.store import Split
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.timm_networks import TimmNetwork
from medtransfer.specs.protocol import FineTuning

__all__ = ["Classifier", "adapt_finetune", "finetune_flops"]

_HELD_OUT = 0.2
_BATCH = 128


class Classifier(nn.Module):
    """An encoder with a linear head that starts at zero, so at uniform probabilities."""

    def __init__(self, encoder: Encoder, classes: int, targets: Targets) -> None:
        """Take over ``encoder``, which will be trained."""
        super().__init__()
        self.encoder, self.targets = encoder, targets
        self.head = nn.Linear(encoder.width, classes, device=encoder.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes) of resampled images (N, C, S, S), values 0 to 255."""
        logits: Tensor = self.head(self.encoder.embed(self.encoder.normalise(pixels)))
        return logits

    @torch.inference_mode()
    def predict(self, split: Split, items: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Probabilities (N, classes) of a split, or of some of its items."""
        self.eval()
        chosen = np.arange(len(split)) if items is None else items
        rows = []
        for start in range(0, len(chosen), _BATCH):
            images = torch.from_numpy(split.images[chosen[start : start + _BATCH]])
            logits = self(self.encoder.resample(images))
            rows.append(self.targets.probabilities(logits.double()).float().cpu().numpy())
        return np.concatenate(rows)


def adapt_finetune(job: Job) -> Outcome:
    """Train every parameter, at the learning rate that did best inside the budget.

    Few-shot: each learning rate is trained on 80 % of the shots and scored on the rest, then the
    best one is trained again on all. Full: each is scored on the official validation split and
    the best run is the result; later draws reuse the learning rate of draw 0.
    """
    train, validation = job.data.splits["train"], job.data.splits["validation"]
    rates = _learning_rates(job)
    seen = 0
    if len(rates) == 1:
        best, selected = None, {"lr": rates[0]}
    else:
        if job.shots is None:
            fitted, scored_split, scored = job.items, validation, np.arange(len(validation))
        else:
            held = hold_out(strata(job.labels), _HELD_OUT)
            fitted, scored_split, scored = job.items[~held], train, job.items[held]
        labels = scored_split.labels[scored]
        runs = []
        for rate in rates:
            classifier, images = _train(job, fitted, rate)
            seen += images
            if classifier is not None:
                score = _score(job, classifier.predict(scored_split, scored), labels)
                if score is not None:
                    runs.append((score, rate, classifier))
        if not runs:
            return _diverged(job, seen, {"lr": None, "tried": rates})
        score, rate, best = max(runs, key=lambda run: run[0])
        selected = {"lr": rate, "validation": score[0], "validation_log_loss": -score[1]}
    if best is None or job.shots is not None:
        best, images = _train(job, job.items, selected["lr"])
        seen += images
        if best is None:
            return _diverged(job, seen, selected)
    probabilities = {name: best.predict(split) for name, split in job.data.tests.items()}
    if not all(np.isfinite(array).all() for array in probabilities.values()):
        return _diverged(job, seen, selected)
    return Outcome(
        probabilities=probabilities,
        selected=selected,
        images_seen=seen,
        trainable_parameters=sum(p.numel() for p in best.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in best.parameters()),
    )


def _score(
    job: Job, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[float, float] | None:
    """What a higher value of is better; ``None`` where the last step went to NaN."""
    if not np.isfinite(probabilities).all():
        return None
    targets = job.targets
    return targets.primary(probabilities, labels) or 0.0, -targets.log_loss(probabilities, labels)


def _settings(job: Job) -> FineTuning:
    assert job.protocol.finetune is not None
    return job.protocol.finetune


def _learning_rates(job: Job) -> list[float]:
    """Those to try for this cell."""
    if job.draw > 0 and job.shots is None and job.previous.get("lr") is not None:
        return [float(job.previous["lr"])]
    settings = _settings(job)
    random = job.encoder.card.pretraining.objective == "none"
    return settings.learning_rates + (settings.learning_rates_random if random else [])


def _train(job: Job, items: NDArray[np.int64], rate: float) -> tuple[Classifier | None, int]:
    """Train on some items of the training split.

    Returns:
        The classifier, or ``None`` when its loss became NaN, and the number of images seen.
    """
    seed = seed_of("finetune", job.data.card.name, job.budget, job.draw)
    device = job.encoder.device
    # Dropout and stochastic depth, which timm's Swin has by default, know only the global
    # generator: seed it for this run, and give it back as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _train_seeded(job, items, rate, torch.Generator().manual_seed(seed))


def _train_seeded(
    job: Job, items: NDArray[np.int64], rate: float, generator: torch.Generator
) -> tuple[Classifier | None, int]:
    settings, split = _settings(job), job.data.splits["train"]
    run = settings.budgets[job.budget]  # type: ignore[index]
    classifier = Classifier(job.encoder.duplicate(), job.classes, job.targets)
    steps = run.length(len(items))
    optimiser, schedule = _optimiser(classifier, settings, rate, steps)
    labels = torch.from_numpy(split.labels)
    epoch = -(-len(items) // run.batch)
    keep_best = settings.keep == "best" and job.shots is None
    best: tuple[tuple[float, float], dict[str, Tensor]] | None = None

    classifier.train()
    for step, batch in enumerate(_batches(items, run.batch, steps, generator), start=1):
        pixels = classifier.encoder.resample(torch.from_numpy(split.images[batch]))
        if settings.augmentation is not None:
            pixels = augment(
                pixels, settings.augmentation, flip=job.data.card.flip, generator=generator
            )
        loss = job.targets.loss(
            classifier(pixels), labels[torch.from_numpy(batch)].to(pixels.device)
        )
        if not math.isfinite(loss.item()):
            return None, step * run.batch
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(classifier.parameters(), settings.clip)
        optimiser.step()
        schedule.step()
        if keep_best and (step % epoch == 0 or step == steps):
            validation = job.data.splits["validation"]
            score = _score(job, classifier.predict(validation), validation.labels)
            if score is not None and (best is None or score > best[0]):
                best = (score, copy.deepcopy(classifier.state_dict()))
            classifier.train()
    if best is not None:
        classifier.load_state_dict(best[1])
    return classifier, steps * run.batch


def _batches(
    items: NDArray[np.int64], size: int, steps: int, generator: torch.Generator
) -> Iterator[NDArray[np.int64]]:
    """Shuffled passes over the items, cut into equal batches; few shots are passed often."""
    queue = np.empty(0, np.int64)
    for _ in range(steps):
        while len(queue) < size:
            queue = np.concatenate(
                [queue, items[torch.randperm(len(items), generator=generator).numpy()]]
            )
        # Sorted rows are read faster from a memory map; a batch has no order.
        yield np.sort(queue[:size])
        queue = queue[size:]


def _optimiser(
    classifier: Classifier, settings: FineTuning, rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with layer-wise decay (Clark et al. 2020; BEiT), warm-up, then the schedule."""
    groups: list[dict[str, Any]] = [
        {"params": [classifier.head.weight], "weight_decay": settings.weight_decay},
        {"params": [classifier.head.bias], "weight_decay": 0.0},
    ]
    network = classifier.encoder.network
    if isinstance(network, TimmNetwork):  # timm's groups go by the names inside its network
        network = network.network
    if hasattr(network, "group_matcher"):
        groups += param_groups_layer_decay(
            network, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay
        )
    else:  # a network that does not tell its layers apart has one
        groups += param_groups_weight_decay(network, weight_decay=settings.weight_decay)
    for group in groups:
        group["lr"] = rate * group.pop("lr_scale", 1.0)
        group.pop("param_names", None)
    optimiser = torch.optim.AdamW(groups, lr=rate)
    warmup = round(settings.warmup * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _diverged(job: Job, seen: int, selected: dict[str, Any]) -> Outcome:
    parameters = sum(p.numel() for p in job.encoder.network.parameters())
    parameters += (job.encoder.width + 1) * job.classes
    return Outcome({}, selected, seen, parameters, parameters, diverged=True)


def finetune_flops(job: Job, profile: Profile) -> int:
    """Every training step of selection and of the result, and the scoring passes."""
    settings = _settings(job)
    run = settings.budgets[job.budget]  # type: ignore[index]
    rates = _learning_rates(job)
    items, scored = len(job.items), 0
    steps = 0
    if len(rates) > 1:
        fitted = items
        if job.shots is None:
            scored = len(job.data.splits["validation"]) * len(rates)
        else:
            held = int(hold_out(strata(job.labels), _HELD_OUT).sum())
            fitted, scored = items - held, held * len(rates)
        steps = run.length(fitted) * len(rates)
    if len(rates) == 1 or job.shots is not None:
        steps += run.length(items)
    if settings.keep == "best" and job.shots is None:
        epochs = -(-run.length(items) // -(-items // run.batch))
        scored += epochs * len(job.data.splits["validation"]) * len(rates)
    head = 2 * profile.width * job.classes
    # The head's backward pass: its weights' gradient and, where the encoder learns, its input's.
    trained = profile.training + head * (3 if profile.parameters else 2)
    return trained * steps * run.batch + (profile.forward + head) * scored
