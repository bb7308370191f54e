"""Rows of `make performance` about the leaderboard, at 3,000 records an encoder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from medtransfer.data.files.cache import cache_folder
from medtransfer.ranking.records.eligibility import expected_cells
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.record import Cell
from medtransfer.specs.replicates import FILE, write_rows
from medtransfer.specs.task import TaskCard, find_task, load_suites, load_tasks
from tests.performance.measure import Measured, Row

__all__ = ["ROWS"]

_RECORDS = 3000
_SUITES = ("main-224", "main-28", "phantom", "phantom-more")
_SHIPPED = Path(__file__).parents[2] / "submissions" / "resnet18" / "records.jsonl"


def measure_growth() -> Measured:
    """Time of `bench leaderboard`, page and figures included, at 50, 100 and 200 encoders."""
    seconds = {encoders: _rank(encoders) for encoders in (50, 100, 200)}
    listed = ", ".join(f"{number} in {taken:.1f} s" for number, taken in seconds.items())
    return Measured([seconds[200] / 20], (f"encoders: {listed}",))


def measure_opening() -> Measured:
    """Time until the page of 200 encoders has its table, in a browser without a network."""
    _rank(200)
    page = cache_folder() / "board" / "index.html"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        taken = []
        for _ in range(5):
            tab = browser.new_page()
            start = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="commit")
            tab.wait_for_selector("tbody tr:nth-child(200)")
            taken.append((time.perf_counter() - start) / 2)
            tab.close()
        browser.close()
    return Measured(taken, (f"it has {page.stat().st_size / 2**20:.2f} MiB",))


def _rank(encoders: int) -> float:
    folder = cache_folder() / "submissions"
    for number in range(encoders):
        if not (folder / f"encoder-{number:03d}").exists():
            _submit(folder / f"encoder-{number:03d}", number)
    start = time.perf_counter()
    command = "from medtransfer.cli import main; main()"
    options = ["--submissions", str(folder), "--out", str(cache_folder() / "board")]
    subprocess.run(
        [sys.executable, "-c", command, "leaderboard", *options], check=True, capture_output=True
    )
    return time.perf_counter() - start


@cache
def _cells() -> dict[Cell, TaskCard]:
    """The first ranked cells of v1, task after task."""
    protocol, suites, cards = load_protocol("v1"), load_suites(), load_tasks()
    found = {}
    for name in _SUITES:
        own = {task: find_task(task, cards) for task in suites[name].tasks}
        kinds = {task: card.kind for task, card in own.items() if card}
        for cell in expected_cells(suites[name], kinds, protocol):
            found[cell] = own[cell.task]
    return {cell: card for cell, card in list(found.items())[:_RECORDS] if card}


def _submit(folder: Path, number: int) -> None:
    """Write an encoder that is a little better than the one before, with noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    domains = ["natural", "ct", "chest-xray", "oct"][number % 4]
    (folder / "encoder.yaml").write_text(
        f"name: {folder.name}\narchitecture: {{timm: resnet18}}\n"
        f"pretraining: {{domains: [{domains}], datasets: [], objective: supervised}}\n"
    )
    protocol = load_protocol("v1")
    template = json.loads(_SHIPPED.read_text().partition("\n")[0])
    others = template["metrics"]["in_domain"]
    lines, arrays = [], {}
    for cell, card in _cells().items():
        chance = 0.0 if card.metric == "dice" else 0.5
        value = float(0.7 + 0.001 * number + 0.02 * rng.normal())
        key = "/".join(map(str, cell))
        splits = {"in_domain": value, "external": value - 0.1}
        record = {
            **template,
            "encoder": {"name": folder.name, "sha256": f"{number:064d}"},
            "task": {
                **{"name": card.name, "fingerprint": "x", "domain": card.domain},
                **{"kind": card.kind, "metric": card.metric, "chance": chance},
            },
            "protocol": {
                "name": "v1",
                "fingerprint": protocol.fingerprint(card.kind, cell.adaptation),
            },
            **{"budget": cell.budget, "adaptation": cell.adaptation, "draw": cell.draw},
            "metrics": {name: {**others, card.metric: mean} for name, mean in splits.items()},
            "replicates": {"file": "replicates.npz", "key": key},
            "predictions": None,
        }
        lines.append(json.dumps(record) + "\n")
        for name, mean in splits.items():
            row = mean + 0.02 * rng.normal(size=200)
            arrays[f"{key}/{name}"] = row.astype(np.float32)
    (folder / "records.jsonl").write_text("".join(lines))
    write_rows(folder / FILE, arrays)


ROWS = [
    Row(
        what=f"leaderboard, 200 encoders of {_RECORDS:,} records",
        against="20 seconds",
        needed=1,
        run=measure_growth,
        most=True,
    ),
    Row(
        what="the page of these, until the table stands",
        against="2 seconds",
        needed=1,
        run=measure_opening,
        most=True,
    ),
]
