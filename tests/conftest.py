"""Shared fixtures: a cache of its own, small data sets, and the real command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

# Before any of them is imported: failed assertions in helpers show their values, too.
pytest.register_assert_rewrite("tests.helpers")

ROOT = Path(__file__).parents[1]
REAL_DATA = Path(os.environ.get("BENCH_DATA") or ROOT.parent / "shared" / "data")
needs_real_data = pytest.mark.skipif(
    not (REAL_DATA / "tasks").is_dir(), reason=f"no real images: {REAL_DATA}/tasks is not there"
)

# One thread: the suite runs in two processes on two cores. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell ignores Ctrl-C for what it starts in the background, and every process started from here
# would inherit that: tests of interrupts would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Of the tests in these folders that report rows.
TABLES = {
    "faults": ["Fault", "Tried", "Survived", "Seen by the user"],
    "hostile": ["Reader", "Cases", "Crashes", "Hangs"],
}


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


Bench = Callable[..., Outcome]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded splits and features of this session's tests, away from the user's own.

    The workers of a session share them: phantoms take a minute to draw.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["BENCH_CACHE"] = str(folder)
    os.environ.pop("BENCH_DATA", None)
    yield folder


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run the command line in this process, as ``bench`` would."""
    from medtransfer.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


class Harmful:
    """What a malicious file may hold: it makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """Name the folder."""
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        """Have the folder made."""
        return os.mkdir, (str(self.path),)


def spawn_bench(
    *arguments: object, folder: Path | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, and in another folder if one is given."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("bench"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A stranger's folder, whose files are called like modules: none of them is ever run."""
    folder, mark = tmp_path / "trap", tmp_path / "sprung"
    (folder / "medtransfer").mkdir(parents=True)
    for name in ("medtransfer/__init__", "multiprocessing", "random", "signal", "torch", "yaml"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__file__ + ' ')\n")
    yield folder
    assert not mark.exists(), mark.read_text()


def draw_images(labels: NDArray[np.int64], *, seed: int, size: int = 16) -> NDArray[np.uint8]:
    """Noise with a brighter quarter whose place tells the class: easy, but not for free."""
    rng = np.random.default_rng(seed)
    images = rng.normal(110, 40, (len(labels), size, size))
    half = size // 2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label) % 4, 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 40
    return images.clip(0, 255).astype(np.uint8)


def write_npz(
    path: Path,
    *,
    classes: int = 3,
    train: int = 60,
    val: int = 24,
    test: int = 36,
    **changes: object,
) -> dict[str, object]:
    """Write a small data set in MedMNIST's layout; ``changes`` replace arrays, ``None`` drops."""
    arrays: dict[str, object] = {}
    for seed, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        labels = np.arange(count) % classes
        arrays[f"{split}_images"] = draw_images(labels, seed=seed)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)[:, None]
    arrays |= changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return arrays


def write_card(folder: Path, name: str, npz: str, *, classes: int = 3, **changes: object) -> Path:
    """Write the task card of a data set made by ``write_npz``."""
    card: dict[str, object] = {
        "title": "A small task",
        "domain": "ct",
        "kind": "multiclass",
        "classes": ["first", "second", "third", "fourth"][:classes],
        "metric": "auroc",
        "train": {"npz": npz, "split": "train"},
        "validation": {"npz": npz, "split": "val"},
        "in_domain": {"npz": npz, "split": "test"},
        "out_of_domain": {"again": {"npz": npz, "split": "test"}},
        "licence": "CC0",
        "citation": "none",
    }
    card |= changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in card.items() if v is not None}))
    return path


@dataclass(frozen=True)
class Small:
    """A small data set with its card."""

    data: Path
    cards: Path
    npz: Path
    card: Path


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """A 3-class task of 60, 24 and 36 images of 16 px, called ``small``."""
    data, cards = tmp_path / "data", tmp_path / "cards"
    data.mkdir()
    write_npz(data / "small.npz")
    return Small(data, cards, data / "small.npz", write_card(cards, "small", "small.npz"))


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Add a line to the table of the test's folder, which is printed in the end."""

    def add(*values: object) -> None:
        record_property("row", [str(value) for value in values])

    return add


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that one process must run: at the end the other would wait for it."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests report of faults and of hostile input, as tables in markdown."""
    for folder, head in TABLES.items():
        rows = [
            value
            for outcome in ("passed", "failed")
            for found in terminalreporter.stats.get(outcome, [])
            for name, value in found.user_properties
            if name == "row" and folder in found.nodeid
        ]
        if rows:
            terminalreporter.write_sep("-", folder)
            for row in (head, ["---"] * len(head), *rows):
                terminalreporter.write_line(f"| {' | '.join(row)} |")
