"""Options of scoring, declared once. Imports little: the help of the command reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """Options of ``bench score``.

    Attributes:
        encoders: As for bench evaluate; may be repeated. Scores are validated over encoders.
        suite: Named list of tasks. Default: phantom, or all cards in --tasks.
        tasks: Only this task; may be repeated.
        scores: Compute only this score, or one from your own .py file; may be repeated. The
            validation covers all scores.
        protocol: v1, quick or medmnist: sets input size, fixed values and outcomes.
        out: Folder of submissions: scores are written there, outcomes read.
        data: Folder with the data files. Default: BENCH_DATA.
        task_folder: Folder of your own task cards.
        device: auto, cpu or cuda.
        sweep: Also compute robustness at all levels, distances and margins.
    """

    encoders: Sequence[str] = ()
    suite: str | None = None
    tasks: Sequence[str] = ()
    scores: Sequence[str] = ()
    protocol: str = "v1"
    out: Path = Path("submissions")
    data: Path | None = None
    task_folder: Path | None = None
    device: str = "auto"
    sweep: bool = False
