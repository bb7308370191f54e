"""Options of pre-training, declared once. Imports little: the help of the command reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from medtransfer.core.errors import InputError


def _read_images(text: str) -> int | float:
    if re.fullmatch("[0-9]{1,12}", text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise InputError(
            f"--images: '{text}'; a number of images, or a fraction between 0 and 1, is expected"
        )
    return value


def _read_epochs(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(re.fullmatch(r"[0-9]{1,7}", part) for part in parts):
        raise InputError(f"--checkpoints: '{text}'; epochs such as 0,1,5,20 are expected")
    return tuple(sorted({int(part) for part in parts}))


@dataclass(frozen=True)
class Request:
    """Options of ``bench pretrain``.

    Attributes:
        recipe: supervised, simclr, simmim, or the .yaml file of your own recipe.
        tasks: Train on the training images of this task; may be repeated.
        init: Start from this encoder, given as for bench evaluate.
        architecture: Start from random weights: timm's name, or that of a listed encoder.
        epochs: Passes over the images. Default: the recipe's.
        images: Train on this number or fraction of the images. Subsets are nested.
        balanced: Sample all classes equally often.
        trainable: full; partial:STAGES (number of deepest stages, or names of layers); or
            hybrid:STAGES:EPOCHS (partial for that many epochs, then full).
        drop_stages: Remove this number of the deepest stages.
        size: Input size in pixels. Default: the encoder's.
        checkpoints: Also keep the encoder after these epochs, such as 0,1,5,20.
        out: Folder of the encoder, which also names it. Default: encoders/<name>.
        data: Folder with the data files. Default: BENCH_DATA.
        task_folder: Folder of your own task cards.
        device: auto, cpu or cuda.
        devices: Devices of each node that share a step.
        nodes: Number of machines.
        accumulate: Micro-batches of a step, whose gradients are added up.
        fresh: Delete what an earlier run left in --out.
    """

    recipe: str = ""
    tasks: Sequence[str] = ()
    init: str | None = None
    architecture: str | None = None
    epochs: int | None = None
    images: Annotated[int | float | None, _read_images] = None
    balanced: bool = False
    trainable: str = "full"
    drop_stages: int = 0
    size: int | None = None
    checkpoints: Annotated[Sequence[int], _read_epochs] = ()
    out: Path | None = None
    data: Path | None = None
    task_folder: Path | None = None
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    accumulate: int = 1
    fresh: bool = False
