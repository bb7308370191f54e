"""The folder of an encoder that was made here: what ``--encoder`` takes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save
from torch import nn

from medtransfer.cost.machine import device_name, versions
from medtransfer.data.writing import replace
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.resolution import dump_card
from medtransfer.pretraining.preparation import Plan
from medtransfer.pretraining.state import State
from medtransfer.specs.encoder import (
    RANDOM_WEIGHTS,
    Cost,
    EncoderCard,
    PretrainingCard,
    PretrainingRun,
    Weights,
)
from medtransfer.specs.errors import RunError

__all__ = [
    "STATE",
    "checkpoint_folder",
    "clear_folder",
    "describe",
    "write_checkpoint",
    "write_encoder",
]

STATE = "state.pt"
_WEIGHTS, _LOSSES, _CARD = "weights.safetensors", "losses.csv", "encoder.yaml"

Number = TypeVar("Number", int, float)


def checkpoint_folder(folder: Path, epoch: int) -> Path:
    """Where the encoder after so many epochs goes."""
    return folder / "checkpoints" / f"epoch-{epoch:04d}"


def clear_folder(folder: Path) -> None:
    """Remove what an earlier run wrote there, and nothing else."""
    for name in (_CARD, STATE, _WEIGHTS, _LOSSES):
        (folder / name).unlink(missing_ok=True)
    for checkpoint in folder.glob("checkpoints/epoch-*"):
        shutil.rmtree(checkpoint)


def write_encoder(folder: Path, card: EncoderCard, network: nn.Module, losses: list[float]) -> None:
    """Write the weights, the loss of each step, and last the card, which makes it an encoder.

    Raises:
        RunError: When that is not possible.
    """
    weights = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )
    table = "step,loss\n" + "".join(f"{i},{loss:.9g}\n" for i, loss in enumerate(losses, start=1))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / _WEIGHTS, weights)
        replace(folder / _LOSSES, table.encode())
        replace(folder / _CARD, dump_card(card).encode())
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written: {error.strerror}; the same command goes on when there "
            "is room"
        ) from None


def write_checkpoint(
    folder: Path, epoch: int, card: EncoderCard, network: nn.Module, losses: list[float]
) -> None:
    """Write an encoder of the trajectory, in one step; one that is there stays.

    Raises:
        RunError: When that is not possible.
    """
    target = checkpoint_folder(folder, epoch)
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".epoch-", dir=target.parent))
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}") from None
    try:
        name = f"{card.name[:70].rstrip('-._')}-epoch-{epoch}"
        own = card.model_copy(update={"name": name, "title": f"{card.title}, after epoch {epoch}"})
        write_encoder(temporary, own, network, losses)
        temporary.chmod(0o755)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def describe(plan: Plan, encoder: Encoder, state: State, *, processes: int) -> EncoderCard:
    """The card of what training has come to.

    What the parent has seen and cost is added; where it does not say, the sum is unknown, too.

    Args:
        plan: The run.
        encoder: On its device.
        state: What was done.
        processes: Devices that shared each step.
    """
    recipe, cards = plan.recipe, [source.card for source in plan.pool.sources]
    parent = plan.parent.pretraining if plan.parent is not None else RANDOM_WEIGHTS
    run = _describe_run(plan, encoder, state, processes=processes)
    if state.step == 0:
        pretraining = parent.model_copy(update={"run": run})
    else:
        gpu_hours = run.seconds * processes / 3600 if encoder.device.type == "cuda" else None
        energy = run.energy_joules / 3.6e6 if run.energy_joules is not None else None
        before = (
            parent.cost if plan.parent is not None else Cost(flops=0, gpu_hours=0, energy_kwh=0)
        )
        datasets = {name for card in cards for name in card.train.lineage or card.lineage}
        pretraining = PretrainingCard(
            domains=_join(parent.domains, {card.domain for card in cards}),
            datasets=_join(parent.datasets, datasets),
            objective=recipe.objective,
            images_seen=_add(parent.images_seen, run.images_seen),
            init=plan.parent.name if plan.parent is not None else None,
            cost=Cost(
                flops=_add(before.flops, run.flops),
                gpu_hours=_add(before.gpu_hours, gpu_hours),
                energy_kwh=_add(before.energy_kwh, energy),
            ),
            run=run,
        )
    start = plan.start.card
    names = ", ".join(card.name for card in cards)
    return start.model_copy(
        update={
            "title": f"{start.architecture.timm}, {recipe.objective} on {names}",
            **{field: "" for field in ("licence", "citation", "url")},
            "weights": Weights(path=_WEIGHTS),
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
        trainable=plan.trainable.text,
        overlaps=plan.overlaps,
        images_seen=seen,
        flops=measured.flops,
        share_of_full=round(measured.flops / measured.full_flops, 4) if state.step else None,
        seconds=round(measured.seconds, 3),
        peak_memory_bytes=measured.peak_memory_bytes or None,
        energy_joules=measured.energy_joules,
        device=device_name(encoder.device),
        processes=processes,
        environment={**versions(), "precision": encoder.precision},
    )


def _join(before: list[str] | None, own: set[str]) -> list[str] | None:
    """Both, sorted; unknown where what was before is."""
    return None if before is None else sorted({*before, *own})


def _add(before: Number | None, own: Number | None) -> Number | None:
    return None if before is None or own is None else before + own
