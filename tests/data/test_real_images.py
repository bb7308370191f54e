"""Real images agree with their cards, and large data stay on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy_format

from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card
from tests.conftest import ROOT, write_card


def real_folder() -> Path | None:
    """Where the real images are, if they are there: data and a folder of task cards."""
    named = os.environ.get("BENCH_DATA")
    candidates = [Path(named), Path(named).parent] if named else []
    for folder in [*candidates, ROOT.parent / "shared" / "data"]:
        if (folder / "tasks").is_dir() and list(folder.glob("*.npz")):
            return folder
    return None


REAL = real_folder()  # before the tests' own cache hides BENCH_DATA
REAL_CARDS = sorted((REAL / "tasks").glob("*.yaml")) if REAL else []


@pytest.mark.skipif(not REAL_CARDS, reason="no real images (set BENCH_DATA to their folder)")
@pytest.mark.parametrize("card", REAL_CARDS, ids=lambda path: path.stem)
def test_real_images_agree_with_their_card(card: Path) -> None:
    """Every card of real images opens, with the items of its files that its classes select."""
    parsed = load_card(card)
    task = open_task(parsed, folder=REAL)
    truth = "masks" if parsed.kind == "segmentation" else "labels"
    for name, source in parsed.sources.items():
        with np.load(REAL / source.npz) as arrays:
            expected = arrays[f"{source.split}_{truth}"]
            images = arrays[f"{source.split}_images"]
        split = task.splits[name]
        if parsed.kind == "segmentation":
            np.testing.assert_array_equal(split.masks, expected)
        else:
            selected = [parsed.classes.index(label) for label in source.select or parsed.classes]
            kept = np.isin(expected.ravel(), selected)
            np.testing.assert_array_equal(split.labels, expected.ravel()[kept])
            images = images[kept]
        np.testing.assert_array_equal(split.images, images)


def test_large_data_stay_on_disk(tmp_path: Path) -> None:
    """Decoding 250 MB and reading them through takes a fraction of that in memory."""
    with zipfile.ZipFile(
        tmp_path / "large.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as file:
        for split, items in (("train", 20_000), ("val", 6), ("test", 6)):
            labels = (np.arange(items) % 3).astype(np.uint8)
            for name, shape, content in (
                ("images", (items, 64, 64, 3), [bytes(64 * 64 * 3)] * items),
                ("labels", (items,), [labels.tobytes()]),
            ):
                with file.open(f"{split}_{name}.npy", "w") as member:
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    npy_format.write_array_header_1_0(member, header)
                    for part in content:
                        member.write(part)
    card = write_card(tmp_path / "cards", "large", "large.npz", out_of_domain=None)
    code = f"""
import resource
from pathlib import Path
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

card, before = load_card(Path({str(card)!r})), peak()
split = open_task(card, folder=Path({str(tmp_path)!r})).splits["train"]
items = sum(len(batch) for batch in split.batches(128))
print(items, peak() - before)
"""
    environment = {**os.environ, "BENCH_CACHE": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    items, megabytes = run.stdout.split()
    # One batch of at most 16 MB is held, more than once while it is decompressed.
    assert int(items) == 20_000 and float(megabytes) < 100
