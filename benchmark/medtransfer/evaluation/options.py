"""Options of an evaluation, declared once. Imports little: the help of the command reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from medtransfer.core.errors import InputError
from medtransfer.core.options import (
    DataOption,
    DeviceOption,
    SuiteOption,
    TaskFolderOption,
    TasksOption,
)

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """Options of ``bench evaluate`` and of :func:`medtransfer.evaluate`."""

    encoder: Annotated[
        str,
        Option(
            "--encoder",
            "-e",
            help="A name (see bench list encoders), timm:NAME, hf-hub:OWNER/NAME, a .pt, .pth or "
            ".safetensors file, a folder with encoder.yaml, or a .py file that registers one.",
        ),
    ]
    architecture: Annotated[
        str | None, Option(help="Architecture of a checkpoint file, as timm names it.")
    ] = None
    suite: SuiteOption = None
    tasks: TasksOption = ()
    budgets: Annotated[
        Sequence[str],
        Option(
            "--budget",
            metavar="<str>",
            help="Only this budget, such as 10-shot or full; may be repeated.",
        ),
    ] = ()
    adaptations: Annotated[
        Sequence[str],
        Option(
            "--adaptation",
            metavar="<str>",
            help="Only this adaptation, such as knn or finetune; may be repeated.",
        ),
    ] = ()
    protocol: Annotated[
        str,
        Option(help="v1 (the benchmark), quick (runs on two cores) or medmnist (its recipe)."),
    ] = "v1"
    out: Annotated[Path, Option(help="Folder of submissions.")] = Path("submissions")
    data: DataOption = None
    task_folder: TaskFolderOption = None
    device: DeviceOption = "auto"
    jobs: Annotated[
        int | None,
        Option(
            min=1,
            metavar="<int>",
            help="Number of processes. Default: one on a GPU, otherwise chosen for the machine.",
        ),
    ] = None
    fresh: Annotated[
        bool,
        Option("--fresh", help="Discard existing records in --out of the requested cells."),
    ] = False
    executor: Annotated[str, Option(help="local, or ray to run the cells on a Ray cluster.")] = (
        "local"
    )
    address: Annotated[
        str | None,
        Option(
            help="Address of the Ray cluster. Default: RAY_ADDRESS, or a new cluster on this "
            "machine."
        ),
    ] = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Request:
        """Convert a Python caller's options: strings to paths, lists to tuples.

        Raises:
            InputError: When a string stands where a list is expected.
        """
        values = dict(options)
        for name in ("tasks", "budgets", "adaptations"):
            if isinstance(values[name], str):
                raise InputError(
                    f"{name}: expected a list such as ['{values[name]}']; a folder of cards is "
                    "task_folder"
                )
            values[name] = tuple(values[name])
        for name in ("data", "task_folder"):
            values[name] = Path(values[name]) if values[name] else None
        return cls(**{**values, "encoder": str(values["encoder"]), "out": Path(values["out"])})
