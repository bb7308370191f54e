"""Resolve and check every input of a run before training. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    """Check a request and plan its run. Writes only downloads and decoded data."""
    _check_numbers(request)
    recipe = load_recipe(request.recipe)
    if request.accumulate > 1 and recipe.objective == "simclr":
        raise InputError(
            "--accumulate: simclr compares all images of a batch with each other, so the batch "
            "cannot be split; use more --devices, or a recipe with a smaller batch"
        )
    trainable = Trainable.read(request.trainable)
    epochs = request.epochs or recipe.epochs
    trainable.check(epochs)
    if late := [epoch for epoch in request.checkpoints if epoch > epochs]:
        raise InputError(f"--checkpoints: {late[0]} is after the last epoch, {epochs}")
    known = load_tasks(request.task_folder)
    cards = [_find_source(name, known) for name in dict.fromkeys(request.tasks)]
    for card in cards:
        _refuse_test_images(card, known)
        if recipe.objective == "supervised" and card.kind == "segmentation":
            raise InputError(
                f"--task: {card.name}: has masks but no classes, which supervised pre-training "
                "needs; use simclr or simmim"
            )
    start, parent = _find_start(request)
    _check_extra(recipe)
    pool = _gather(request, recipe, cards, progress)
    corpora = {corpus for card in cards for corpus in card.training_corpora}
    corpora |= set(parent.pretraining.datasets or ()) if parent is not None else set()
    name = _name_encoder(request, recipe, start, cards)
    out = request.out or Path("encoders") / name
    _check_folder(request.init, out)
    named = start.card.model_copy(update={"name": _check_name(request.out, name)})
    identity = {
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
        start=replace(start, card=named),
        parent=parent,
        folder=out,
        fingerprint=digest(identity),
        overlaps=sorted(name for name, task in known.items() if corpora & set(task.corpora)),
    )


def _gather(
    request: Request, recipe: Recipe, cards: Sequence[TaskCard], progress: Progress
) -> Pool:
    """Open the sources, choose their images, and check the batch size."""
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
    parts = request.devices * request.nodes * request.accumulate
    if batch % parts:
        raise InputError(
            f"--devices, --nodes, --accumulate: a batch of {batch} images cannot be split into "
            f"{parts} equal parts"
        )
    if batch // parts < 2 or pool.steps(request.epochs or recipe.epochs) < 1:
        raise InputError(
            f"--images: {len(pool)} is too few: a micro-batch would have {batch // parts}, but "
            "needs 2 at least"
        )
    return pool


def _describe_source(source: Source) -> dict[str, Any]:
    """Collect the properties of a source that decide the weights or enter the card."""
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
        raise InputError("--task: name at least one task, to train on its training images")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", request.device):
        raise InputError(f"--device: '{request.device}' is not supported; use auto, cpu or cuda")
    for option in ("epochs", "size", "devices", "nodes", "accumulate", "images"):
        value = getattr(request, option)
        if value is not None and value <= 0:
            raise InputError(f"--{option}: {value}; a positive number is expected")
    if request.drop_stages < 0:
        raise InputError(f"--drop-stages: {request.drop_stages}; 0 or more is expected")
    if request.epochs is not None and request.epochs > _MOST_EPOCHS:
        raise InputError(f"--epochs: {request.epochs}; at most {_MOST_EPOCHS} are expected")


def _check_extra(recipe: Recipe) -> None:
    """Refuse a missing package before hours of decoding."""
    for module in ("lightning_fabric", *(["lightly"] if recipe.objective == "simclr" else [])):
        if find_spec(module) is None:
            raise InputError(
                f"bench pretrain needs {module}: pip install 'medtransfer[pretraining]'"
            )


def _find_source(name: str, known: Mapping[str, TaskCard]) -> TaskCard:
    """Return the card of a source task; only training splits can be sources."""
    task, separator, split = name.partition(":") if ":" in name else name.partition("/")
    card = find_task(task, known)
    if card is None:
        raise InputError(
            f"--task: unknown task '{task}'{suggest(task, known)} (for your own cards: --tasks)"
        )
    if separator and split != "train":
        raise InputError(
            f"--task: {name}: only training images can be a source, not '{split}'; name the task "
            "alone"
        )
    return card


def _refuse_test_images(card: TaskCard, known: Mapping[str, TaskCard]) -> None:
    """Refuse training images that another card tests on, in any size or number."""
    train = _identify_split(card.train)
    for other in known.values():
        for name, source in other.sources.items():
            if name not in ("train", "validation") and _identify_split(source) == train:
                raise InputError(
                    f"--task: {card.name}: its training images are the test split {name} of "
                    f"{other.name}; training on a test split is never allowed"
                )


def _identify_split(source: TaskSource) -> tuple[str, str, str | None]:
    """Identify a split of a corpus, regardless of image size and number."""
    return source.corpus, getattr(source, "split", ""), getattr(source, "table", None)


def _find_start(request: Request) -> tuple[EncoderSource, EncoderCard | None]:
    """Resolve the initial encoder; the second value is its card, if it was trained before."""
    if request.init is not None:
        checkpoint = Path(request.init).is_file() and Path(request.init).suffix != ".py"
        start = resolve_encoder(
            request.init, architecture=request.architecture if checkpoint else None
        )
        if request.architecture is not None and not checkpoint:
            wanted = resolve_untrained(request.architecture).card.architecture
            given = start.card.architecture
            if (wanted.timm, wanted.options) != (given.timm, given.options):
                raise InputError(
                    f"--init: {request.init} is not a {request.architecture} (--architecture) but "
                    f"timm's {given.timm}, perhaps with other options; omit --architecture"
                )
    elif request.architecture is not None:
        start = resolve_untrained(request.architecture)
    else:
        raise InputError("--architecture: name one (timm's name, or a listed encoder's), or --init")
    if start.builder is not None:
        raise InputError(
            f"--{'init' if request.init else 'architecture'}: {start.card.name} is built by Python "
            "code, which an encoder's folder cannot name; choose a network that timm builds"
        )
    card = start.card
    architecture = card.architecture
    if request.drop_stages:
        dropped = architecture.drop_stages + request.drop_stages
        architecture = architecture.model_copy(update={"drop_stages": dropped})
    fields = card.input.model_dump() | ({"size": request.size} if request.size else {})
    try:
        resized = Input.model_validate(fields)
    except ValidationError:
        raise InputError(f"--size: {request.size}; 8 to 2048 pixels are expected") from None
    changed = card.model_copy(update={"architecture": architecture, "input": resized})
    parent = None if card.pretraining.objective == "none" else card
    return replace(start, card=changed), parent


def _check_folder(init: str | None, folder: Path) -> None:
    """Refuse an initial encoder inside the folder of the result, and the reverse."""
    if init is not None and Path(init).exists():
        start, out = Path(init).resolve(), folder.resolve()
        if start.is_relative_to(out) or out.is_relative_to(start):
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
            f"--out: '{name}' also names the encoder; use at most 80 lower-case letters, digits, "
            "'.', '_' and '-'"
        ) from None
    if name in registered():
        raise InputError(
            f"--out: '{name}' is the name of a listed encoder, whose results would be mixed with "
            "these; choose another folder"
        )
    return name
