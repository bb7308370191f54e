"""Options of pre-training, declared once. Imports little: the help of the command reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from medtransfer.core.errors import InputError
from medtransfer.core.options import DataOption, DeviceOption, TaskFolderOption

__all__ = ["Request"]


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
    """Options of ``bench pretrain``."""

    recipe: Annotated[
        str, Option(help="supervised, simclr, simmim, or the .yaml file of your own recipe.")
    ] = ""
    tasks: Annotated[
        Sequence[str],
        Option(
            "--task",
            metavar="<str>",
            help="Train on the training images of this task; may be repeated.",
        ),
    ] = ()
    init: Annotated[
        str | None, Option(help="Start from this encoder, given as for bench evaluate.")
    ] = None
    architecture: Annotated[
        str | None,
        Option(help="Start from random weights: timm's name, or that of a listed encoder."),
    ] = None
    epochs: Annotated[
        int | None,
        Option(metavar="<int>", help="Passes over the images. Default: the recipe's."),
    ] = None
    images: Annotated[
        int | float | None,
        Option(
            metavar="<n>",
            parser=_read_images,
            help="Train on this number or fraction of the images. Subsets are nested.",
        ),
    ] = None
    balanced: Annotated[bool, Option("--balanced", help="Sample all classes equally often.")] = (
        False
    )
    trainable: Annotated[
        str,
        Option(
            metavar="<str>",
            help="full; partial:STAGES (number of deepest stages, or names of layers); or "
            "hybrid:STAGES:EPOCHS (partial for that many epochs, then full).",
        ),
    ] = "full"
    drop_stages: Annotated[
        int, Option(metavar="<int>", help="Remove this number of the deepest stages.")
    ] = 0
    size: Annotated[
        int | None, Option(metavar="<px>", help="Input size. Default: the encoder's.")
    ] = None
    checkpoints: Annotated[
        Sequence[int],
        Option(
            metavar="<list>",
            parser=_read_epochs,
            help="Also keep the encoder after these epochs, such as 0,1,5,20.",
        ),
    ] = ()
    out: Annotated[
        Path | None,
        Option(help="Folder of the encoder, which also names it. Default: encoders/<name>."),
    ] = None
    data: DataOption = None
    task_folder: TaskFolderOption = None
    device: DeviceOption = "auto"
    devices: Annotated[
        int, Option(metavar="<int>", help="Devices of each node that share a step.")
    ] = 1
    nodes: Annotated[int, Option(metavar="<int>", help="Number of machines.")] = 1
    accumulate: Annotated[
        int,
        Option(metavar="<int>", help="Micro-batches of a step, whose gradients are added up."),
    ] = 1
    fresh: Annotated[bool, Option("--fresh", help="Delete what an earlier run left in --out.")] = (
        False
    )
