"""Plan of a pre-training run, and its folder. Imports no torch."""

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
        trainable: Trainable stages by phase.
        pool: The images.
        start: The initial encoder.
        parent: Card of the initial encoder; ``None`` if its weights are random.
        folder: Folder of the result.
        fingerprint: SHA-256 of all that decides the weights.
        overlaps: Known tasks that share a source corpus with the images.
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

    @property
    def epochs(self) -> int:
        """Passes over the images."""
        return self.request.epochs or self.recipe.epochs

    @property
    def steps(self) -> int:
        """Number of steps."""
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
        """Trainable stages and last step of each phase."""
        ends, epoch = [], 0
        for phase in self.trainable.phases:
            epoch = self.epochs if phase.epochs is None else epoch + phase.epochs
            ends.append((phase.stages, self.pool.steps(epoch)))
        return ends

    @property
    def checkpoints(self) -> dict[int, int]:
        """Epochs of the checkpoints by step."""
        return {self.pool.steps(epoch): epoch for epoch in sorted(self.request.checkpoints)}


def checkpoint_folder(folder: Path, epoch: int) -> Path:
    """Return the folder of the checkpoint after ``epoch`` epochs."""
    return folder / "checkpoints" / f"epoch-{epoch:04d}"


def has_checkpoint(folder: Path, epoch: int, fingerprint: str) -> bool:
    """Check whether this run's checkpoint after ``epoch`` epochs exists."""
    card = _read_card(checkpoint_folder(folder, epoch))
    return card is not None and _is_of(card, fingerprint)


def finished_card(plan: Plan) -> EncoderCard | None:
    """Return the card of a run that is already finished, or ``None``."""
    if plan.request.fresh or (card := _read_card(plan.folder)) is None:
        return None
    if not _is_of(card, plan.fingerprint):
        raise refuse_other(plan.folder)
    for epoch in sorted(plan.request.checkpoints):
        if not has_checkpoint(plan.folder, epoch, plan.fingerprint):
            raise InputError(
                f"--checkpoints: {plan.folder} has no checkpoint of epoch {epoch}; use --fresh to "
                "train again"
            )
    (plan.folder / STATE).unlink(missing_ok=True)  # left by a call killed just before its end
    return card


def _read_card(folder: Path) -> EncoderCard | None:
    path = folder / CARD
    return EncoderCard.parse(read_yaml(path), origin=str(path)) if path.exists() else None


def _is_of(card: EncoderCard, fingerprint: str) -> bool:
    run = card.pretraining.run
    return run is not None and run.fingerprint == fingerprint


def refuse_other(folder: Path) -> InputError:
    """Describe the conflict with a folder that another command wrote."""
    return InputError(
        f"--out: {folder} holds the encoder of another command (recipe, tasks, data, epochs or "
        "start differ); choose another --out, or --fresh to replace it"
    )
