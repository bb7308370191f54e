"""`bench pretrain`: the loop, which can be stopped at any step and goes on to the same weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor, nn

from medtransfer.adaptation.optimiser import ClippingAdamW, build_optimiser
from medtransfer.cost.energy import measure_energy
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.cost.machine import keep_freed_memory, peak_memory, reset_peak_memory
from medtransfer.data.draws import seed_of
from medtransfer.encoders.encoder import Encoder
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.resolution import Located
from medtransfer.pretraining.devices import share_statistics, start_devices
from medtransfer.pretraining.folder import (
    STATE,
    checkpoint_folder,
    clear_folder,
    describe,
    write_checkpoint,
    write_encoder,
)
from medtransfer.pretraining.freezing import choose_trainable, find_prefix
from medtransfer.pretraining.objectives import OBJECTIVES, Batch, Objective
from medtransfer.pretraining.preparation import Plan, finished_card, refuse_other
from medtransfer.pretraining.progress import PretrainingProgress
from medtransfer.pretraining.state import State, read_state, write_state
from medtransfer.pretraining.views import VIEW_DRAWS, make_view
from medtransfer.specs.base import InputError
from medtransfer.specs.encoder import EncoderCard, Weights
from medtransfer.specs.errors import RunError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricModule

__all__ = ["pretrain"]

_LONGEST = 500  # steps between two looks at whether to save
_SHARE = 0.05  # of the time may go into saving
_PATIENCE = 600.0  # seconds after which a state is saved in any case


def pretrain(plan: Plan, progress: PretrainingProgress | None = None) -> EncoderCard:
    """Train an encoder and write its folder; what was begun before goes on.

    Returns:
        The encoder's card.

    Raises:
        InputError: When the encoder cannot be trained so.
        RunError: When the loss is no number any more, or nothing can be written.
    """
    if (card := finished_card(plan)) is not None:
        (plan.folder / STATE).unlink(missing_ok=True)  # of a call that was stopped at its end
        return card
    progress = progress or PretrainingProgress()
    keep_freed_memory()
    kind = OBJECTIVES[plan.recipe.objective]
    fabric = start_devices(plan.request, whole=getattr(kind, "whole", True))
    if not fabric.is_global_zero:
        progress = PretrainingProgress()
    lock = FileLock(plan.folder / ".lock")
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        if fabric.is_global_zero:
            lock.acquire(timeout=0)
        return _Run(plan, fabric).train(progress)
    except Timeout:
        raise InputError(
            f"{plan.folder}: another run is writing there; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise RunError(f"--out: {plan.folder} cannot be written: {error.strerror}") from None
    finally:
        progress.end()
        lock.release()
        with suppress(OSError):
            Path(lock.lock_file).unlink()


class _Run:
    """What lives as long as one call: the objective on its device, and the state."""

    def __init__(self, plan: Plan, fabric: Fabric) -> None:
        self.plan, self.fabric = plan, fabric
        self.path = plan.folder / STATE
        encoder = build_encoder(
            plan.start, max_size=plan.start.card.input.size, device=fabric.device
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("pretraining", plan.pool.seed, "head"))
            objective = OBJECTIVES[plan.recipe.objective](encoder, plan.recipe, plan.pool)
        if fabric.world_size > 1:
            share_statistics(objective, fabric.device)
        self.objective = objective
        self.free = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self.full = _full_price(plan) if plan.request.drop_stages else _profile(objective)
        for stages, _ in plan.phases:  # a name that is no layer is found before hours of work
            self.choose(stages)
        if plan.request.fresh and fabric.is_global_zero:
            clear_folder(plan.folder)
        fabric.barrier()
        state = read_state(self.path)
        if state is not None and state.fingerprint != plan.fingerprint:
            raise refuse_other(plan.folder)
        if state is not None:
            _refuse_late(plan, state.step)
        self.state = state or State(plan.fingerprint, 0, {}, {}, [])
        if state is not None:
            objective.load_state_dict(state.objective)
        self.saved, self.effort = time.monotonic(), 0.0

    @property
    def encoder(self) -> Encoder:
        return self.objective.encoder

    def choose(self, stages: int | tuple[str, ...] | None) -> None:
        for parameter in self.free:
            parameter.requires_grad_(True)
        choose_trainable(self.encoder, stages)

    def train(self, progress: PretrainingProgress) -> EncoderCard:
        plan, state = self.plan, self.state
        progress.begin(plan, state.step, self.encoder.notes)
        if state.step == 0:
            self._visit(0)
        begin = 0
        device = self.encoder.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for stages, end in plan.phases:
                if state.step < end:
                    self._train_phase(stages, begin, end, progress)
                begin = end
        card = self._describe()
        if self.fabric.is_global_zero:
            write_encoder(plan.folder, card, self.encoder.inner, state.losses)
            self.path.unlink(missing_ok=True)
        self.fabric.barrier()
        return card

    def _train_phase(
        self,
        stages: int | tuple[str, ...] | None,
        begin: int,
        end: int,
        progress: PretrainingProgress,
    ) -> None:
        """Train some stages from their first step, or from where the state is, to ``end``."""
        plan, state, recipe = self.plan, self.state, self.plan.recipe
        self.choose(stages)
        self.objective.prefix = prefix = None
        if stages is not None and recipe.objective == "supervised" and recipe.augmentation is None:
            self.objective.prefix = prefix = find_prefix(self.encoder, len(plan.pool))
        optimiser, schedule = build_optimiser(
            self.objective, recipe.optimisation, recipe.learning_rate, end - begin
        )
        if state.step > begin and state.optimiser:
            optimiser.load_state_dict(state.optimiser["optimiser"])
            schedule.load_state_dict(state.optimiser["schedule"])
        module = self.fabric.setup_module(self.objective)
        price, beginning = _profile(self.objective), _beginning(self.objective)
        for until in self._stops(begin, end):
            reset_peak_memory(self.encoder.device)
            clock, first = time.perf_counter(), state.step
            passed = prefix.passes if prefix is not None else 0
            with measure_energy(self.encoder.device) as energy:
                losses = self._train_until(until, module, optimiser, schedule)
            measured, steps = state.measured, until - first
            measured.seconds += time.perf_counter() - clock
            measured.flops += steps * plan.pool.batch_size * price
            if prefix is not None:
                measured.flops += (prefix.passes - passed) * beginning
            measured.full_flops += steps * plan.pool.batch_size * self.full
            measured.peak_memory_bytes = max(
                measured.peak_memory_bytes, peak_memory(self.encoder.device)
            )
            if energy.joules is None or measured.energy_joules is None:
                measured.energy_joules = None
            else:
                measured.energy_joules += energy.joules
            state.losses += losses
            state.optimiser = {}
            if until < end:
                state.optimiser = {
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                }
            self._visit(until)
            progress.advance(until, float(np.mean(losses)))

    def _stops(self, begin: int, end: int) -> Iterator[int]:
        """Steps at which to look up: the ends of epochs, checkpoints, and every so many steps."""
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
        """Do the steps up to ``until``; the mean loss over all devices of each of them.

        Raises:
            RunError: When a loss is not finite.
        """
        fabric, state, parts = self.fabric, self.state, self.plan.request.accumulate
        self.objective.train()
        found = []
        first = state.step
        for step in range(first, until):
            torch.manual_seed(seed_of("pretraining", self.plan.pool.seed, step, fabric.global_rank))
            batches = self._batches(step, parts)
            optimiser.zero_grad()
            total = torch.zeros((), device=fabric.device)
            for number, batch in enumerate(batches, start=1):
                with fabric.no_backward_sync(module, enabled=number < parts):
                    loss = module(batch) / parts
                    fabric.backward(loss)
                total += loss.detach()
            optimiser.step()
            schedule.step()
            found.append(total)
        mean = fabric.all_reduce(torch.stack(found))
        assert isinstance(mean, Tensor)
        losses: list[float] = mean.tolist()
        if not np.isfinite(losses).all():
            wrong = first + 1 + int(np.flatnonzero(~np.isfinite(losses))[0])
            kept = f"; the state after step {first} is kept" if self.path.exists() else ""
            raise RunError(
                f"{self.plan.folder}: the loss is no finite number at step {wrong} of "
                f"{self.plan.steps}, with the learning rate {self.plan.recipe.learning_rate:g}"
                f"{kept}; a recipe with a smaller one is needed"
            )
        state.step = until
        return losses

    def _batches(self, step: int, parts: int) -> list[Batch]:
        """This device's part of a step's images, in equal parts.

        All random numbers are drawn for the whole step, so that they do not depend on how it is
        shared out.
        """
        fabric, pool, objective = self.fabric, self.plan.pool, self.objective
        places = pool.batch(step)
        generator = torch.Generator().manual_seed(seed_of("pretraining", pool.seed, "views", step))
        numbers = objective.views * VIEW_DRAWS + objective.draws
        draws = torch.rand((numbers, len(places)), generator=generator)
        own = np.arange(fabric.global_rank, len(places), fabric.world_size)
        return [
            self._load(places[chosen], draws[:, torch.from_numpy(chosen)])
            for chosen in np.array_split(own, parts)
        ]

    def _load(self, places: NDArray[np.int64], draws: Tensor) -> Batch:
        """Read images of the pool and make their views."""
        pool, objective, device = self.plan.pool, self.objective, self.encoder.device
        order = np.argsort(places, kind="stable")  # source after source, as they lie in the files
        places, draws = places[order], draws[:, torch.from_numpy(order)].to(device)
        number = np.searchsorted(pool.starts, places, side="right") - 1
        pixels, labels = [], []
        for i, source in enumerate(pool.sources):
            items = source.items[places[number == i] - pool.starts[i]]
            labels.append(torch.from_numpy(source.split.labels[items]).to(device))
            if len(items):
                images = torch.from_numpy(source.split.images[items])
                pixels.append(self.encoder.resample(images))
        images = torch.cat(pixels)
        flips = np.array([source.card.flip for source in pool.sources])
        flip = torch.from_numpy(flips[number]).to(device)
        settings = self.plan.recipe.augmentation
        views = [
            images
            if settings is None
            else make_view(
                images, draws[i * VIEW_DRAWS : (i + 1) * VIEW_DRAWS], settings, flip=flip
            )
            for i in range(objective.views)
        ]
        return Batch(
            views=tuple(views),
            source=torch.from_numpy(number).to(device),
            labels=tuple(labels),
            draws=draws[objective.views * VIEW_DRAWS :],
            places=torch.from_numpy(places),
        )

    def _visit(self, step: int) -> None:
        """After a step: write the trajectory's encoder, and the state when it is time."""
        if not self.fabric.is_global_zero:
            return
        epoch = self.plan.checkpoints.get(step)
        if epoch is not None:
            write_checkpoint(
                self.plan.folder, epoch, self._describe(), self.encoder.inner, self.state.losses
            )
        now = time.monotonic()
        waited = now - self.saved
        due = waited * _SHARE >= self.effort or waited > _PATIENCE or epoch is not None
        if due and step < self.plan.steps:
            self.state.objective = self.objective.state_dict()
            write_state(self.path, self.state)
            self.saved = time.monotonic()
            self.effort = self.saved - now

    def _describe(self) -> EncoderCard:
        return describe(self.plan, self.encoder, self.state, processes=self.fabric.world_size)


class _Predictor(nn.Module):
    """The objective's pass through the network, for counting."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, pixels: Tensor) -> Tensor:
        return self.objective.predict(pixels)


def _profile(objective: Objective) -> int:
    """FLOPs of training on one image, all of its views included; exact for what is trained.

    A frozen beginning whose output is kept is not among them, since images do not pass it again.
    """
    flops = objective.views * training_flops(_Predictor(objective), **_shape(objective.encoder))
    return flops - _beginning(objective)


def _beginning(objective: Objective) -> int:
    """FLOPs of one image's pass through the beginning whose output is kept."""
    if objective.prefix is None:
        return 0
    return forward_flops(objective.prefix.beginning(), **_shape(objective.encoder))


def _shape(encoder: Encoder) -> dict[str, int]:
    return {"channels": encoder.card.input.channels, "size": encoder.size}


def _full_price(plan: Plan) -> int:
    """FLOPs of training on one image with the stages that are left out."""
    card = plan.start.card
    dropped = card.architecture.drop_stages - plan.request.drop_stages
    whole = card.architecture.model_copy(update={"drop_stages": dropped})
    card = card.model_copy(update={"architecture": whole, "weights": Weights()})
    encoder = build_encoder(Located(card), max_size=card.input.size, device=torch.device("cpu"))
    return _profile(OBJECTIVES[plan.recipe.objective](encoder, plan.recipe, plan.pool))


def _refuse_late(plan: Plan, step: int) -> None:
    """Of a run under way the encoders of epochs that are over cannot be had any more."""
    for late, epoch in plan.checkpoints.items():
        if late < step and not checkpoint_folder(plan.folder, epoch).exists():
            raise InputError(
                f"--checkpoints: {plan.folder} is beyond epoch {epoch} already; leave it out, or "
                "--fresh, which makes the encoder anew"
            )
