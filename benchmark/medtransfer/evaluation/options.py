"""Options of an evaluation, declared once. Imports little: the help of the command reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core.errors import InputError


@dataclass(frozen=True)
class Request:
    """Options of ``bench evaluate`` and of :func:`medtransfer.evaluate`.

    Attributes:
        encoder: A name (see bench list encoders), timm:NAME, hf-hub:OWNER/NAME, a .pt, .pth or
            .safetensors file, a folder with encoder.yaml, or a .py file that registers one.
        architecture: Architecture of a checkpoint file, as timm names it.
        suite: Named list of tasks. Default: phantom, or all cards in --tasks.
        tasks: Only this task; may be repeated.
        budgets: Only this budget, such as 10-shot or full; may be repeated.
        adaptations: Only this adaptation, such as knn or finetune; may be repeated.
        protocol: v1 (the benchmark), quick (runs on two cores) or medmnist (its recipe).
        out: Folder of submissions.
        data: Folder with the data files. Default: BENCH_DATA.
        task_folder: Folder of your own task cards.
        device: auto, cpu or cuda.
        jobs: Number of processes. Default: one on a GPU, otherwise chosen for the machine.
        fresh: Discard existing records in --out of the requested cells.
        executor: local, or ray to run the cells on a Ray cluster.
        address: Address of the Ray cluster. Default: RAY_ADDRESS, or a new cluster on this machine.
    """

    encoder: str
    architecture: str | None = None
    suite: str | None = None
    tasks: Sequence[str] = ()
    budgets: Sequence[str] = ()
    adaptations: Sequence[str] = ()
    protocol: str = "v1"
    out: Path = Path("submissions")
    data: Path | None = None
    task_folder: Path | None = None
    device: str = "auto"
    jobs: int | None = None
    fresh: bool = False
    executor: str = "local"
    address: str | None = None

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
                    f"{name}: a list such as ['{values[name]}'] is expected; a folder of cards is "
                    "task_folder"
                )
            values[name] = tuple(values[name])
        for name in ("data", "task_folder"):
            values[name] = Path(values[name]) if values[name] else None
        return cls(**{**values, "encoder": str(values["encoder"]), "out": Path(values["out"])})
