"""Resolve and check every input before anything is trained or written. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medtransfer.core.documents import digest
from medtransfer.core.errors import InputError, suggest
from medtransfer.data.files.cache import data_folder
from medtransfer.data.files.remote import SILENT, Progress
from medtransfer.data.store import open_split
from medtransfer.encoders.registry import registered
from medtransfer.encoders.resolution import EncoderSource, resolve_encoder, resolve_untrained
from medtransfer.pretraining.options import Request
from medtransfer.pretraining.plan import Plan
from medtransfer.pretraining.pool import Pool, Source, choose_items, share_out
from medtransfer.specs.encoder import EncoderCard, Input
from medtransfer.specs.pretraining import Recipe, Trainable, load_recipe
from medtransfer.specs.source import Source as TaskSource
from medtransfer.specs.task import Name, TaskCard, find_task, load_tasks

_MOST_EPOCHS = 1_000_000


def prepare(request: Request, progress: Progress = SILENT) -> Plan:
    """Check a request. Nothing is written but downloads and decoded data.

    Raises:
        InputError: For the first thing that is wrong with it.
    """
    _check_numbers(request)
    recipe = load_recipe(request.recipe)
    if request.accumulate > 1 and recipe.objective == "simclr":
        raise InputError(
            "--accumulate: simclr compares all images of a batch, so it cannot be split into "
            "micro-batches; use more --devices, or a recipe with a smaller batch"
        )
    trainable = Trainable.read(request.trainable)
    epochs = request.epochs or recipe.epochs
    trainable.check(epochs)
    if late := [epoch for epoch in request.checkpoints if epoch > epochs]:
        raise InputError(f"--checkpoints: {late[0]} is after the last epoch, {epochs}")
    all_cards = load_tasks(request.task_folder)
    cards = [_find_source(name, all_cards) for name in dict.fromkeys(request.tasks)]
    for card in cards:
        _refuse_test_images(card, all_cards)
        if recipe.objective == "supervised" and card.kind == "segmentation":
            raise InputError(
                f"--task: {card.name}: has masks and no classes, which supervised pre-training "
                "needs; simclr and simmim take its images"
            )
    start, parent = _find_start(request)
    _check_extra(recipe)
    pool = _gather(request, recipe, cards, progress)
    corpora = {corpus for card in cards for corpus in card.training_corpora}
    corpora |= set(parent.pretraining.datasets or ()) if parent is not None else set()
    name = _name_encoder(request, recipe, start, cards)
    folder_of_run = request.out or Path("encoders") / name
    _keep_parent(request.init, folder_of_run)
    named = start.card.model_copy(update={"name": _check_name(request.out, name)})
    decisive = {
        "recipe": recipe.fingerprint,
        "epochs": epochs,
        "sources": [_describe_source(source) for source in pool.sources],
        "balanced": request.balanced,
        "trainable": trainable.text,
        "parts": request.accumulate,
        "start": start.identity,
        "parent": parent.pretraining.model_dump(exclude={"run"}) if parent else None,
    }
    return Plan(
        request=request,
        recipe=recipe,
        trainable=trainable,
        pool=pool,
        start=EncoderSource(named, None, start.weights, start.notes),
        parent=parent,
        folder=folder_of_run,
        fingerprint=digest(decisive),
        overlaps=sorted(name for name, task in all_cards.items() if corpora & set(task.corpora)),
        notes=start.notes,
    )


def _gather(
    request: Request, recipe: Recipe, cards: Sequence[TaskCard], progress: Progress
) -> Pool:
    """Open the sources, choose their images, and check the size of batches."""
    folder = data_folder(request.data)
    splits = [
        open_split(card, "train", folder=folder, progress=progress, fetch=True) for card in cards
    ]
    counts = share_out([len(split) for split in splits], request.images)
    sources = tuple(
        Source(card, split, choose_items(split, count, task=card.name))
        for card, split, count in zip(cards, splits, counts, strict=True)
    )
    batch = min(recipe.batch, sum(counts))
    pool = Pool(sources, batch, request.balanced)
    shared = request.devices * request.nodes * request.accumulate
    if batch % shared:
        raise InputError(
            f"--devices, --nodes, --accumulate: a batch of {batch} images cannot be split "
            f"evenly into {shared} parts"
        )
    if batch // shared < 2 or pool.steps(request.epochs or recipe.epochs) < 1:
        raise InputError(
            f"--images: {len(pool)} is too few: {batch // shared} images per micro-batch; "
            "2 or more are needed"
        )
    return pool


def _describe_source(source: Source) -> dict[str, Any]:
    """Describe a source by all fields that decide the weights or appear in the card."""
    card = source.card
    fields = card.model_dump(include={"name", "kind", "classes", "flip", "domain"})
    return {
        **fields,
        "corpora": card.training_corpora,
        "sha256": source.split.sha256,
        "items": len(source.items),
    }


def _check_numbers(request: Request) -> None:
    if not request.tasks:
        raise InputError("--task: required; the training images of the task are the source")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    for option in ("epochs", "size", "devices", "nodes", "accumulate", "images"):
        value = getattr(request, option)
        if value is not None and value <= 0:
            raise InputError(f"--{option}: {value}; a positive number is expected")
    if request.drop_stages < 0:
        raise InputError(f"--drop-stages: {request.drop_stages}; 0 or more is expected")
    if request.epochs is not None and request.epochs > _MOST_EPOCHS:
        raise InputError(f"--epochs: {request.epochs}; at most {_MOST_EPOCHS} is expected")


def _check_extra(recipe: Recipe) -> None:
    """Check for the libraries to install, before hours of decoding."""
    needed = ["lightning_fabric", *(["lightly"] if recipe.objective == "simclr" else [])]
    if absent := [module for module in needed if find_spec(module) is None]:
        raise InputError(
            f"bench pretrain needs {absent[0]}: pip install 'medtransfer[pretraining]'"
        )


def _find_source(name: str, all_cards: Mapping[str, TaskCard]) -> TaskCard:
    """Find the card of a source; only training splits are sources."""
    task, separator, split = name.partition(":") if ":" in name else name.partition("/")
    card = find_task(task, all_cards)
    if card is None:
        raise InputError(
            f"--task: unknown task '{task}'{suggest(task, all_cards)} (cards of your own: --tasks)"
        )
    if separator and split != "train":
        raise InputError(
            f"--task: {name}: only training images are a source, never '{split}'; name the task "
            "alone"
        )
    return card


def _refuse_test_images(card: TaskCard, all_cards: Mapping[str, TaskCard]) -> None:
    """Refuse a training split that another card tests on, in whatever size or number."""
    trained_on = _name_split(card.train)
    for other in all_cards.values():
        for name, source in other.sources.items():
            if name not in ("train", "validation") and _name_split(source) == trained_on:
                raise InputError(
                    f"--task: {card.name}: its training images are the test split {name} of "
                    f"{other.name}; nothing is ever trained on a test split"
                )


def _name_split(source: TaskSource) -> tuple[str, str, str | None]:
    """Identify a split of a corpus, independent of its preparation."""
    return source.corpus, getattr(source, "split", ""), getattr(source, "table", None)


def _find_start(request: Request) -> tuple[EncoderSource, EncoderCard | None]:
    """Resolve the start of training: an encoder, or an architecture with random weights."""
    if request.init is None and request.architecture is None:
        raise InputError("--architecture: name one (timm's name, or a listed encoder's), or --init")
    if request.init is None:
        assert request.architecture is not None
        source = resolve_untrained(request.architecture)
    else:
        checkpoint = Path(request.init).is_file() and Path(request.init).suffix != ".py"
        source = resolve_encoder(
            request.init, architecture=request.architecture if checkpoint else None
        )
        if request.architecture is not None and not checkpoint:
            wanted = resolve_untrained(request.architecture).card.architecture
            given = source.card.architecture
            if (wanted.timm, wanted.options) != (given.timm, given.options):
                raise InputError(
                    f"--init: {request.init} is not of the --architecture {request.architecture}: "
                    f"it is timm's {given.timm}, perhaps with other options; leave --architecture "
                    "out"
                )
    if source.builder is not None:
        raise InputError(
            f"--{'init' if request.init else 'architecture'}: {source.card.name} is built by "
            "Python code, which the folder of an encoder cannot name; use a network of timm"
        )
    card = source.card
    architecture = card.architecture
    if request.drop_stages:
        dropped = architecture.drop_stages + request.drop_stages
        architecture = architecture.model_copy(update={"drop_stages": dropped})
    fields = card.input.model_dump() | ({"size": request.size} if request.size else {})
    try:
        seen = Input.model_validate(fields)
    except ValidationError:
        raise InputError(f"--size: {request.size}; 8 to 2048 pixels are expected") from None
    update: dict[str, Any] = {"architecture": architecture, "input": seen}
    card = card.model_copy(update=update)
    trained = card.pretraining.objective != "none"
    return EncoderSource(card, None, source.weights, source.notes), source.card if trained else None


def _keep_parent(init: str | None, folder: Path) -> None:
    """Refuse an initial encoder inside the output folder, or the reverse."""
    if init is not None and Path(init).exists():
        start, target = Path(init).resolve(), folder.resolve()
        if start.is_relative_to(target) or target.is_relative_to(start):
            raise InputError(f"--out: {folder} and --init {init} must not contain each other")


def _name_encoder(
    request: Request, recipe: Recipe, start: EncoderSource, cards: Sequence[TaskCard]
) -> str:
    parts = [start.card.name, recipe.name, *(card.name for card in cards)]
    if request.trainable != "full":
        parts.append(re.sub(r"[^a-z0-9]+", "-", request.trainable.lower()))
    if request.drop_stages:
        parts.append(f"drop-{request.drop_stages}")
    if request.images is not None:
        parts.append(str(request.images))
    return "-".join(parts)[:80].strip("-._")


def _check_name(out: Path | None, default: str) -> str:
    name = out.resolve().name if out is not None else default
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise InputError(
            f"--out: '{name}' is the encoder's name, too, so small letters, digits, '.', '_' and "
            "'-' are expected, 80 at most"
        ) from None
    if name in registered():
        raise InputError(
            f"--out: '{name}' is the name of a listed encoder, and the results would be mixed up; "
            "choose another folder"
        )
    return name
