"""The row of `make performance` about a Ray cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from medtransfer.specs.record import read_records
from tests.helpers.cluster import Nodes
from tests.performance.measure import Measured, Row

__all__ = ["ROWS"]

_TASKS = ("natural", "chest_xray", "chest_findings", "ct", "oct", "fundus")


def time_nodes(count: int) -> float:
    """Seconds from the first cell's start to the last one's end, of six alike on so many nodes."""
    nodes = Nodes()
    for _ in range(count - 1):
        nodes.ask("add")
    with tempfile.TemporaryDirectory() as out:
        options = ["--adaptation", "finetune", "--budget", "10-shot", "--protocol", "quick"]
        options += [text for task in _TASKS for text in ("--task", f"phantom_{task}")]
        options += ["--executor", "ray", "--address", nodes.address, "--jobs", str(count)]
        # Twice: the first call decodes the data, and is thrown away.
        for place in ("warm", "timed"):
            command = ["evaluate", "--encoder", "resnet_mini", "--out", f"{out}/{place}", *options]
            code = "from medtransfer.cli import main; main()"
            subprocess.run(
                [sys.executable, "-c", code, *command],
                check=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        records = read_records(Path(out) / "timed" / "resnet_mini" / "records.jsonl")
    nodes.process.communicate(timeout=60)
    assert len(records) == len(_TASKS) and all(record.status == "ok" for record in records)
    first = min(datetime.fromisoformat(record.started) for record in records)
    last = max(datetime.fromisoformat(record.finished) for record in records)
    return (last - first).total_seconds()


def two_nodes() -> Measured:
    """How much faster two nodes of a core each are than one."""
    alone, together = time_nodes(1), time_nodes(2)
    return Measured([alone / together], ("the start of Ray's processes but the first is included",))


ROWS = [Row("ray, two nodes of a core each", "one node", 1.6, two_nodes)]
