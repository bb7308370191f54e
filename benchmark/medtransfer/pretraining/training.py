"""`bench pretrain`: the training loop; an interrupted run resumes to the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from medtransfer.acceleration.clipping import ClippingAdamW
from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.acceleration.prefix import find_prefix
from medtransfer.adaptation.optimiser import build_optimiser
from medtransfer.core.errors import InputError, RunError, unwritable
from medtransfer.core.files import release
from medtransfer.core.progress import JobProgress
from medtransfer.core.seeds import seed_of
from medtransfer.cost.energy import measure_energy
from medtransfer.cost.machine import peak_memory, reset_peak_memory
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.memory import out_of_memory
from medtransfer.pretraining.devices import share_statistics, start_devices
from medtransfer.pretraining.folder import (
    clear_folder,
    describe,
    write_checkpoint,
    write_encoder,
)
from medtransfer.pretraining.freezing import Stages, choose_trainable
from medtransfer.pretraining.loader import load_step
from medtransfer.pretraining.objectives import OBJECTIVES
from medtransfer.pretraining.plan import (
    STATE,
    Plan,
    finished_card,
    has_checkpoint,
    refuse_other,
)
from medtransfer.pretraining.prices import price_beginning, price_training, price_whole
from medtransfer.pretraining.state import State, read_state, write_state
from medtransfer.specs.encoder import EncoderCard

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

_LONGEST = 500  # steps between two decisions whether to save
_SHARE = 0.05  # largest share of the time for saving
_PATIENCE = 600.0  # seconds after which a state is saved in any case


def pretrain(plan: Plan, progress: JobProgress | None = None) -> EncoderCard:
    """Train an encoder and write its folder; an interrupted run resumes.

    Returns:
        The encoder's card.

    Raises:
        InputError: When the encoder cannot be trained with this plan.
        RunError: When the loss is not finite, or the disk is full.
    """
    if (card := finished_card(plan)) is not None:
        return card
    keep_freed_memory()
    fabric = start_devices(plan.request, whole=OBJECTIVES[plan.recipe.objective].whole)
    shown = progress if progress is not None and fabric.is_global_zero else JobProgress()
    try:
        run = _Run(plan, fabric)
        with run.alone():
            return run.train(shown)
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise RunError(
            f"{plan.folder}: a step of {plan.pool.batch_size} images does not fit in memory; "
            "use --accumulate for micro-batches, or more --devices"
        ) from None
    finally:
        shown.end()


class _Run:
    """Run of one call: the objective on its device, and the state."""

    def __init__(self, plan: Plan, fabric: Fabric) -> None:
        """Build the objective and count its FLOPs; write nothing."""
        self.plan, self.fabric = plan, fabric
        self.path = plan.folder / STATE
        encoder = build_encoder(
            plan.start, max_size=plan.start.card.input.size, device=fabric.device
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("pretraining", plan.pool.seed, "head"))
            self.objective = OBJECTIVES[plan.recipe.objective](encoder, plan.recipe, plan.pool)
        self.free = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self.full = (
            price_whole(plan) if plan.request.drop_stages else price_training(self.objective)
        )
        # Counted before batch norms are shared, which cannot run on meta. A name that matches no
        # layer is refused here, before hours of work.
        self.prices = []
        for stages, _ in plan.phases:
            self.freeze(stages)
            self.prices.append((price_training(self.objective), price_beginning(self.objective)))
        if fabric.world_size > 1:
            share_statistics(self.objective, fabric.device)
        self.state = State(plan.fingerprint, 0, {}, {}, [])
        # Time and step of the last saved state, and the seconds that saving took.
        self.saved, self.kept, self.effort = time.monotonic(), -1, 0.0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder, clean up after a killed call, and read the state.

        Raises:
            InputError: When another call is writing there, or it holds another run.
            RunError: When it cannot be written.
        """
        folder = self.plan.folder
        lock = FileLock(folder / ".lock")
        try:
            self.on_first(lambda: self._open(lock))
            # Read from the first device's disk, which the others may not see.
            self.state = self.fabric.broadcast(self.state)
            if self.state.objective:
                self.objective.load_state_dict(self.state.objective)
            yield
        finally:
            if lock.is_locked:
                release(lock)

    def _open(self, lock: FileLock) -> None:
        plan, folder = self.plan, self.plan.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            clear_folder(folder, whole=plan.request.fresh)
        except Timeout:
            raise InputError(
                f"{folder}: another run is writing there; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise unwritable(f"--out: {folder}", error) from None
        state = read_state(self.path)
        if state is None:
            return
        if state.fingerprint != plan.fingerprint:
            raise refuse_other(folder)
        self.state, self.kept = state, state.step
        for late, epoch in plan.checkpoints.items():
            if late < state.step and not has_checkpoint(folder, epoch, plan.fingerprint):
                raise InputError(
                    f"--checkpoints: {folder} has passed epoch {epoch} already; leave it out, or "
                    "use --fresh to start again"
                )

    def on_first(self, work: Callable[[], None]) -> None:
        """Do work on the first device only; if it fails, all devices stop."""
        error: InputError | RunError | None = None
        if self.fabric.is_global_zero:
            try:
                work()
            except (InputError, RunError) as raised:
                error = raised
        error = self.fabric.broadcast(error)
        if error is not None:
            raise error

    @property
    def encoder(self) -> Encoder:
        return self.objective.encoder

    def freeze(self, stages: Stages) -> None:
        """Train only some stages; keep the output of the frozen first part where possible."""
        for parameter in self.free:
            parameter.requires_grad_(True)
        choose_trainable(self.encoder, stages)
        recipe, objective = self.plan.recipe, self.objective
        objective.prefix = None
        if stages is not None and recipe.objective == "supervised" and recipe.augmentation is None:
            objective.prefix = find_prefix(self.encoder, len(self.plan.pool))

    def train(self, progress: JobProgress) -> EncoderCard:
        plan, state = self.plan, self.state
        for note in (*plan.notes, *self.encoder.notes):
            progress.warn(note)
        progress.say(plan.summary)
        if plan.overlaps:
            progress.warn(
                "the pre-training data share corpora with these tasks; the card and the "
                f"leaderboard will mark them: {', '.join(plan.overlaps)}"
            )
        progress.begin(plan.steps, state.step, unit="steps")
        if state.step == 0:
            self._visit(0)
        begin = 0
        device = self.encoder.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for number, (stages, end) in enumerate(plan.phases):
                if state.step < end:
                    self._train_phase(stages, self.prices[number], begin, end, progress)
                begin = end
        card = self._describe()

        def finish() -> None:
            nonlocal card
            card = write_encoder(plan.folder, card, self.objective, state.losses)
            self.path.unlink(missing_ok=True)

        self.on_first(finish)
        return card

    def _train_phase(
        self,
        stages: Stages,
        price: tuple[int, int],
        begin: int,
        end: int,
        progress: JobProgress,
    ) -> None:
        """Train some stages from their first step, or from the saved state, to ``end``."""
        state, recipe = self.state, self.plan.recipe
        self.freeze(stages)
        optimiser, schedule = build_optimiser(
            self.objective, recipe.optimisation, recipe.learning_rate, end - begin
        )
        if state.step > begin and state.optimiser:
            optimiser.load_state_dict(state.optimiser["optimiser"])
            schedule.load_state_dict(state.optimiser["schedule"])
        prefix = self.objective.prefix
        if prefix is not None and state.step > begin and state.passed is not None:
            prefix.passed = state.passed
        module = self.fabric.setup_module(self.objective)
        for until in self._stops(begin, end):
            work = partial(self._train_until, until, module, optimiser, schedule)
            losses = self._measure(price, until - state.step, work)
            state.losses += losses
            state.step = until
            state.optimiser = {}
            if until < end:
                state.optimiser = {
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                }
            self._visit(until)
            epoch = until * self.plan.pool.batch_size / len(self.plan.pool)
            line = f"epoch {epoch:.1f} of {self.plan.epochs}: loss {float(np.mean(losses)):.4f}"
            progress.finished(line, steps=len(losses))

    def _measure(
        self, price: tuple[int, int], steps: int, work: Callable[[], list[float]]
    ) -> list[float]:
        """Do some steps, and add up their cost over all devices."""
        fabric, measured, prefix = self.fabric, self.state.measured, self.objective.prefix
        device, images = self.encoder.device, steps * self.plan.pool.batch_size
        reset_peak_memory(device)
        before = prefix.passes if prefix is not None else 0
        clock = time.perf_counter()
        with measure_energy(device) as energy:
            losses = work()
        seconds = time.perf_counter() - clock
        joules = energy.joules if energy.joules is not None else float("nan")
        passes = prefix.passes - before if prefix is not None else 0
        local = torch.tensor([seconds, joules, passes], dtype=torch.float64, device=device)
        total = fabric.all_reduce(local, reduce_op="sum")
        assert isinstance(total, Tensor)
        device_seconds, joules, passes = total.tolist()
        measured.seconds += seconds
        measured.device_seconds += device_seconds
        measured.flops += images * price[0] + round(passes) * price[1]
        measured.full_flops += images * self.full
        measured.peak_memory_bytes = max(measured.peak_memory_bytes, peak_memory(device))
        if measured.energy_joules is not None:
            measured.energy_joules += joules
            if not np.isfinite(measured.energy_joules):
                measured.energy_joules = None
        self.state.passed = prefix.passed if prefix is not None else None
        return losses

    def _stops(self, begin: int, end: int) -> Iterator[int]:
        """Yield the steps to pause at: ends of epochs, checkpoints and regular intervals."""
        plan = self.plan
        epochs = {plan.pool.steps(epoch) for epoch in range(plan.epochs + 1)}
        stops = {*epochs, *plan.checkpoints, *range(begin, end, _LONGEST), end}
        yield from sorted(stop for stop in stops if self.state.step < stop <= end)

    def _train_until(
        self,
        until: int,
        module: _FabricModule,
        optimiser: ClippingAdamW,
        schedule: torch.optim.lr_scheduler.LambdaLR,
    ) -> list[float]:
        """Do the steps up to ``until``, and return the mean loss of each over all devices.

        Raises:
            RunError: When a loss is not finite.
        """
        fabric, plan, first = self.fabric, self.plan, self.state.step
        parts = plan.request.accumulate
        self.objective.train()
        step_losses = []
        for step in range(first, until):
            torch.manual_seed(seed_of("pretraining", plan.pool.seed, step, fabric.global_rank))
            batches = load_step(
                *(plan.pool, self.objective, step, plan.recipe.augmentation),
                parts=parts,
                device=fabric.global_rank,
                devices=fabric.world_size,
            )
            optimiser.zero_grad()
            total = torch.zeros((), device=fabric.device)
            for number, batch in enumerate(batches, start=1):
                with fabric.no_backward_sync(module, enabled=number < parts):
                    loss = module(batch) / parts
                    fabric.backward(loss)
                total += loss.detach()
            optimiser.step()
            schedule.step()
            step_losses.append(total)
        mean = fabric.all_reduce(torch.stack(step_losses))
        assert isinstance(mean, Tensor)
        losses: list[float] = mean.tolist()
        # No loss shows the update of the last step.
        tensors = [t for t in self.objective.state_dict().values() if t.is_floating_point()]
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        wrong = [*np.flatnonzero(~np.isfinite(losses)), *([] if finite else [len(losses) - 1])]
        if wrong:
            kept = f"; the state after step {self.kept} is kept" if self.kept >= 0 else ""
            raise RunError(
                f"{plan.folder}: the loss or a weight is not finite at step "
                f"{first + 1 + wrong[0]} of {plan.steps}, with the learning rate "
                f"{plan.recipe.learning_rate:g}{kept}; use a recipe with a smaller one"
            )
        return losses

    def _visit(self, step: int) -> None:
        """Write the trajectory's encoder after a step, and the state when it is due."""
        epoch = self.plan.checkpoints.get(step)

        def write() -> None:
            if epoch is not None:
                arguments = (self._describe(), self.objective, self.state.losses)
                write_checkpoint(self.plan.folder, epoch, *arguments)
            now = time.monotonic()
            waited = now - self.saved
            due = waited * _SHARE >= self.effort or waited > _PATIENCE or epoch is not None
            if due and step < self.plan.steps:
                self.state.objective = self.objective.state_dict()
                write_state(self.path, self.state)
                self.saved, self.kept = time.monotonic(), step
                self.effort = self.saved - now

        self.on_first(write)

    def _describe(self) -> EncoderCard:
        return describe(self.plan, self.encoder, self.state, processes=self.fabric.world_size)
