"""Folder of a pre-trained encoder, as ``--encoder`` takes it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save
from torch import nn

from medtransfer.core.errors import RunError, reason
from medtransfer.core.files import leftovers, replace, replacing_folder
from medtransfer.cost.machine import device_name, versions
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.resolution import dump_card
from medtransfer.encoders.source_head import HEAD
from medtransfer.pretraining.objectives import Objective
from medtransfer.pretraining.plan import (
    CARD,
    STATE,
    Plan,
    checkpoint_folder,
    has_checkpoint,
)
from medtransfer.pretraining.state import State
from medtransfer.specs.encoder import (
    RANDOM_WEIGHTS,
    Cost,
    EncoderCard,
    PretrainingCard,
    PretrainingRun,
    Weights,
)

_WEIGHTS, _LOSSES = "weights.safetensors", "losses.csv"

Number = TypeVar("Number", int, float)


def clear_folder(folder: Path, *, whole: bool) -> None:
    """Remove half-written files of a killed run; with ``whole``, all files of earlier runs."""
    names = (CARD, STATE, _WEIGHTS, _LOSSES, HEAD)
    for checkpoint in folder.glob("checkpoints/epoch-*" if whole else "checkpoints/.epoch-*"):
        shutil.rmtree(checkpoint)
    for name in names:
        for part in leftovers(folder / name):
            part.unlink()
        if whole:
            (folder / name).unlink(missing_ok=True)


def write_encoder(
    folder: Path, card: EncoderCard, objective: Objective, losses: list[float]
) -> EncoderCard:
    """Write the weights, the loss of each step and, last, the card that completes the folder.

    The classifier of a single source is kept beside them, for scores that use its predictions.

    Returns:
        The card as written, with the hash of the weights.

    Raises:
        RunError: When that is not possible.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return _write(folder, card, objective, losses)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn errors of writing into one line that says how to resume."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written: {reason(error)}; free some space and "
            "run the same command again to resume"
        ) from None


def _write(
    folder: Path, card: EncoderCard, objective: Objective, losses: list[float]
) -> EncoderCard:
    weights = _pack(objective.encoder.inner)
    digest = hashlib.sha256(weights).hexdigest()
    card = card.model_copy(update={"weights": Weights(path=_WEIGHTS, sha256=digest)})
    head = _pack(objective.classifier) if objective.classifier is not None else None
    if head is not None:
        run = card.pretraining.run
        assert run is not None
        kept = run.model_copy(update={"source_head": hashlib.sha256(head).hexdigest()})
        pretraining = card.pretraining.model_copy(update={"run": kept})
        card = card.model_copy(update={"pretraining": pretraining})
    table = "step,loss\n" + "".join(f"{i},{loss:.9g}\n" for i, loss in enumerate(losses, start=1))
    replace(folder / _WEIGHTS, weights)
    if head is not None:
        replace(folder / HEAD, head)
    replace(folder / _LOSSES, table.encode())
    replace(folder / CARD, dump_card(card).encode())
    return card


def _pack(module: nn.Module) -> bytes:
    tensors = module.state_dict().items()
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors})


def write_checkpoint(
    folder: Path, epoch: int, card: EncoderCard, objective: Objective, losses: list[float]
) -> None:
    """Write an encoder of the trajectory atomically; one that this run wrote before stays.

    Raises:
        RunError: When that is not possible.
    """
    target = checkpoint_folder(folder, epoch)
    assert card.pretraining.run is not None
    if has_checkpoint(folder, epoch, card.pretraining.run.fingerprint):
        return
    end = f"-epoch-{epoch}"
    name = card.name[: 80 - len(end)].rstrip("-._") + end
    checkpoint = card.model_copy(
        update={"name": name, "title": f"{card.title}, after epoch {epoch}"}
    )
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(target) as temporary:  # an existing one belongs to another run
            _write(temporary, checkpoint, objective, losses)


def describe(plan: Plan, encoder: Encoder, state: State, *, processes: int) -> EncoderCard:
    """Describe the encoder as trained so far.

    Data and cost of the parent are added; where they are unknown, so is the sum.

    Args:
        plan: The run.
        encoder: The encoder, on its device.
        state: Steps and cost so far.
        processes: Number of devices that shared each step.
    """
    recipe, cards = plan.recipe, [source.card for source in plan.pool.sources]
    parent = plan.parent.pretraining if plan.parent is not None else RANDOM_WEIGHTS
    run = _describe_run(plan, encoder, state, processes=processes)
    init = plan.parent.name if plan.parent is not None else None
    if state.step == 0:
        pretraining = parent.model_copy(update={"run": run, "init": init})
    else:
        gpu = encoder.device.type == "cuda"
        gpu_hours = state.measured.device_seconds / 3600 if gpu else None
        energy = run.energy_joules / 3.6e6 if run.energy_joules is not None else None
        before = (
            parent.cost if plan.parent is not None else Cost(flops=0, gpu_hours=0, energy_kwh=0)
        )
        datasets = {name for card in cards for name in card.training_corpora}
        pretraining = PretrainingCard(
            domains=_join(parent.domains, {card.domain for card in cards}),
            datasets=_join(parent.datasets, datasets),
            objective=recipe.objective,
            images_seen=_add(parent.images_seen, run.images_seen),
            init=init,
            cost=Cost(
                flops=_add(before.flops, run.flops),
                gpu_hours=_add(before.gpu_hours, gpu_hours),
                energy_kwh=_add(before.energy_kwh, energy),
            ),
            run=run,
        )
    start = plan.start.card
    begun = plan.parent.name if plan.parent is not None else plan.request.architecture
    how = [f"{recipe.name} on {', '.join(card.name for card in cards)}"]
    how += [plan.trainable.text] if plan.trainable.text != "full" else []
    dropped = plan.request.drop_stages
    how += [f"without {dropped} stage{'s' if dropped > 1 else ''}"] if dropped else []
    return start.model_copy(
        update={
            "title": f"{begun}, {', '.join(how)}",
            "citation": "",
            "url": "",
            "pretraining": pretraining,
        }
    )


def _describe_run(plan: Plan, encoder: Encoder, state: State, *, processes: int) -> PretrainingRun:
    pool, measured = plan.pool, state.measured
    seen = state.step * pool.batch_size
    return PretrainingRun(
        recipe=plan.recipe.name,
        fingerprint=plan.fingerprint,
        tasks={source.card.name: source.split.sha256 for source in pool.sources},
        images=len(pool),
        balanced=pool.balanced,
        epochs=round(seen / len(pool), 4),
        steps=state.step,
        batch=pool.batch_size,
        start=plan.start.identity,
        trainable=plan.trainable.text,
        overlaps=plan.overlaps if state.step or plan.parent is not None else [],
        images_seen=seen,
        flops=measured.flops,
        share_of_full=round(measured.flops / measured.full_flops, 4) if state.step else None,
        seconds=round(measured.seconds, 3),
        peak_memory_bytes=measured.peak_memory_bytes or None,
        energy_joules=measured.energy_joules if state.step else None,
        device=device_name(encoder.device),
        processes=processes,
        environment={**versions(), **_extras(plan), "precision": encoder.precision},
    )


def _extras(plan: Plan) -> dict[str, str]:
    """List the versions of the libraries that only pre-training uses."""
    names = ["pytorch-lightning", *(["lightly"] if plan.recipe.objective == "simclr" else [])]
    return {name: importlib.metadata.version(name) for name in names}


def _join(before: list[str] | None, added: set[str]) -> list[str] | None:
    """Join two sets of names, sorted; ``None`` where the first is unknown."""
    return None if before is None else sorted({*before, *added})


def _add(before: Number | None, added: Number | None) -> Number | None:
    return None if before is None or added is None else before + added
