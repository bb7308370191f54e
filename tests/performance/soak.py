"""`make soak`: thousands of tiny cells in one process; memory and open files must stay flat.

    python -m tests.performance.soak [MINUTES]

Prints the slopes of the resident memory and of the open files after the first tenth of the cells.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
FOLDER = tempfile.TemporaryDirectory(prefix="soak-")
os.environ["BENCH_CACHE"] = f"{FOLDER.name}/cache"

from medtransfer.core.progress import JobProgress  # noqa: E402
from medtransfer.evaluation import evaluate  # noqa: E402
from medtransfer.evaluation.options import Request  # noqa: E402
from medtransfer.evaluation.request import prepare  # noqa: E402
from tests.conftest import write_card, write_npz  # noqa: E402
from tests.helpers.evaluation import write_encoder  # noqa: E402

TASKS = 60  # of a round, each of 16 cells


class Watch(JobProgress):
    """Looks at this process after every tenth cell."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.cells, self.failed = 0, 0
        self.seen: list[tuple[float, ...]] = []

    def finished(
        self, line: str, *, steps: int = 1, work: float | None = None, failed: bool = False
    ) -> None:
        """Count the cell."""
        self.cells += 1
        self.failed += failed
        if self.cells % 10 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = sum(1 for _ in Path("/proc/self/fd").iterdir())
            self.seen.append((self.cells, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files))
        if self.cells % 500 == 0:
            gc.collect()
            cells, memory, files = self.seen[-1]
            objects = len(gc.get_objects())
            print(f"{cells} cells: {memory:.0f} MiB, {files} files, {objects} objects", flush=True)


def slope(cells: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Of a line through the values, for a thousand cells, and its standard error."""
    design = np.stack([np.asarray(cells) / 1000, np.ones(len(cells))], axis=1)
    found, residual, *_ = np.linalg.lstsq(design, np.asarray(values), rcond=None)
    variance = float(residual[0]) / (len(cells) - 2) if len(residual) else 0.0
    covariance = variance * np.linalg.inv(design.T @ design)
    return float(found[0]), float(np.sqrt(covariance[0, 0]))


def main(minutes: float) -> None:
    """Evaluate one small encoder again and again, into new folders."""
    folder, watch = Path(FOLDER.name), Watch()
    (folder / "data").mkdir()
    for number in range(TASKS):
        write_npz(folder / "data" / f"t{number}.npz", train=60 + 3 * number)
        write_card(folder / "cards", f"t{number}", f"t{number}.npz")
    encoder = write_encoder(folder)
    clock, rounds = time.monotonic(), 0
    while time.monotonic() - clock < 60 * minutes:
        request = Request(
            str(encoder),
            task_folder=folder / "cards",
            data=folder / "data",
            protocol="quick",
            out=folder / f"out-{rounds}",
            jobs=1,
            device="cpu",
        )
        evaluate.run(prepare(request), watch)
        rounds += 1
    print(f"{watch.cells} cells in {rounds} evaluations, {watch.failed} of them failed")
    cells, memory, files = zip(*watch.seen[len(watch.seen) // 10 :], strict=True)
    for what, values in (("MiB of resident memory", memory), ("open files", files)):
        rise, error = slope(cells, values)
        print(
            f"{what}: {values[0]:.0f} at first, {values[-1]:.0f} at last, at most "
            f"{max(values):.0f}; slope {rise:+.2f} (standard error {error:.2f}) for 1,000 cells"
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30)
