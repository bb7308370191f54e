"""`make performance`: what the harness costs beside what must be done, as ratios of one run.

Each row times two things alternately in this process and prints the median of their ratios, with
the smallest and the largest; absolute times would say more about the machine than about the code.
`python -m tests.performance sweep jobs` runs only the rows whose names hold one of the words.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.cost.machine import device_name
from medtransfer.encoders.encoder import resolve_device, supports_bf16
from tests.performance import board, cluster, networks, pretraining, probes, runs, scores
from tests.performance.measure import Measured, Row

ROWS = [
    *networks.ROWS,
    *pretraining.ROWS,
    *probes.ROWS,
    *scores.ROWS,
    *runs.ROWS,
    *board.ROWS,
    *cluster.ROWS,
]


def describe_machine() -> str:
    """Device, threads and precision, without which the ratios mean little."""
    device = resolve_device("auto")
    precision = "bf16" if supports_bf16(device) else "fp32"
    return (
        f"{device_name(device)}; torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; networks in {precision}"
    )


def show(row: Row, measured: Measured) -> list[str]:
    """The cells of a row's line in the table; a figure that was missed is red."""
    median = statistics.median(measured.values)
    met = median <= row.needed if row.most else median >= row.needed
    spread = f"{min(measured.values):.3g} - {max(measured.values):.3g}"
    return [
        row.what,
        row.against,
        f"{median:.3g}" if met else f"[red]{median:.3g} missed[/red]",
        f"{'at most' if row.most else 'at least'} {row.needed:g}",
        spread if len(measured.values) > 1 else "",
        str(len(measured.values)),
    ]


def main() -> None:
    """Print the table."""
    words = sys.argv[1:]
    rows = [row for row in ROWS if not words or any(word in row.what for word in words)]
    if not rows:
        sys.exit(f"no row has {' or '.join(words)} in its name: {'; '.join(r.what for r in ROWS)}")
    keep_freed_memory()  # as every evaluation does
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(describe_machine())
    table = Table("what", "ours against", "ratio", "needed", "smallest - largest", "runs")
    notes = []
    for row in track(rows, "Measuring", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["BENCH_CACHE"] = folder
            measured = row.run()
        table.add_row(*show(row, measured))
        notes += [f"{row.what}: {note}" for note in measured.notes]
    console.print(table)
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main()
