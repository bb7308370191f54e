"""Plan of a run: its request, resolved inputs, length and folder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError
from medtransfer.encoders.resolution import EncoderSource
from medtransfer.pretraining.options import Request
from medtransfer.pretraining.pool import Pool
from medtransfer.specs.encoder import EncoderCard
from medtransfer.specs.pretraining import Recipe, Trainable

CARD, STATE = "encoder.yaml", "state.pt"


@dataclass(frozen=True)
class Plan:
    """A checked request.

    Attributes:
        request: The request.
        recipe: Its recipe.
        trainable: The trainable stages, by phase.
        pool: The images.
        start: The encoder at the start of training.
        parent: The card of that encoder; ``None`` with random weights.
        folder: Output folder of the encoder.
        fingerprint: SHA-256 of all that decides the weights.
        overlaps: Known tasks that share a source corpus with the images.
        notes: Notes for the user, one line each.
    """

    request: Request
    recipe: Recipe
    trainable: Trainable
    pool: Pool
    start: EncoderSource
    parent: EncoderCard | None
    folder: Path
    fingerprint: str
    overlaps: list[str]
    notes: tuple[str, ...]

    @property
    def epochs(self) -> int:
        """Passes over the images."""
        return self.request.epochs or self.recipe.epochs

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.pool.steps(self.epochs)

    @property
    def summary(self) -> str:
        """One line: encoder, recipe, sources, length and trainable stages."""
        pool = self.pool
        tasks = ", ".join(f"{source.card.name} ({len(source.items)})" for source in pool.sources)
        return (
            f"{self.start.card.name}: {self.recipe.name} on {tasks}, {self.epochs} epochs, "
            f"{self.steps} steps of {pool.batch_size} images, trainable {self.trainable.text}"
        )

    @property
    def phases(self) -> list[tuple[int | tuple[str, ...] | None, int]]:
        """Phases: the trained stages, and the step at which each ends."""
        ends, epoch = [], 0
        for phase in self.trainable.phases:
            epoch = self.epochs if phase.epochs is None else epoch + phase.epochs
            ends.append((phase.stages, self.pool.steps(epoch)))
        return ends

    @property
    def checkpoints(self) -> dict[int, int]:
        """Epochs of the trajectory's checkpoints, by step."""
        return {self.pool.steps(epoch): epoch for epoch in sorted(self.request.checkpoints)}


def checkpoint_folder(folder: Path, epoch: int) -> Path:
    """Return the folder of the encoder after so many epochs."""
    return folder / "checkpoints" / f"epoch-{epoch:04d}"


def has_checkpoint(folder: Path, epoch: int, fingerprint: str) -> bool:
    """Return whether this run's encoder after so many epochs exists."""
    path = checkpoint_folder(folder, epoch) / CARD
    if not path.exists():
        return False
    run = EncoderCard.parse(read_yaml(path), origin=str(path)).pretraining.run
    return run is not None and run.fingerprint == fingerprint


def finished_card(plan: Plan) -> EncoderCard | None:
    """Return the card of a finished run, or ``None``.

    Raises:
        InputError: When the folder holds another run's encoder, or lacks checkpoints.
    """
    path = plan.folder / CARD
    if not path.exists() or plan.request.fresh:
        return None
    card = EncoderCard.parse(read_yaml(path), origin=str(path))
    run = card.pretraining.run
    if run is None or run.fingerprint != plan.fingerprint:
        raise refuse_other(plan.folder)
    for epoch in sorted(plan.request.checkpoints):
        if not has_checkpoint(plan.folder, epoch, plan.fingerprint):
            raise InputError(
                f"--checkpoints: {plan.folder} has no checkpoint of epoch {epoch}; use "
                "--fresh to start again"
            )
    (plan.folder / STATE).unlink(missing_ok=True)  # left by a call that was killed
    return card


def refuse_other(folder: Path) -> InputError:
    """Describe the conflict with a folder that another command wrote."""
    return InputError(
        f"--out: {folder} holds the encoder of another command (recipe, tasks, data, epochs or "
        "initial encoder differ); choose another --out, or use --fresh to start again"
    )
