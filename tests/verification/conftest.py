"""Submissions to verify, made once by the real command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_card, write_npz
from tests.helpers.segmentation import MAPS, draw_discs
from tests.helpers.tampering import draw_noise, evaluate


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, cards, and the submissions of raw pixels and of a user's own encoder."""
    folder = tmp_path_factory.mktemp("verify")
    counts = {"train": 60, "val": 24, "test": 36}
    hard = {f"{split}_images": draw_noise(count) for split, count in counts.items()}
    write_npz(folder / "small.npz", **hard)
    write_npz(folder / "other.npz", test=33, test_images=draw_noise(33, seed=9))
    noise = {"corrupt": "in_domain", "kinds": ["gaussian-noise"], "severities": [3, 5]}
    other = {"npz": "other.npz", "split": "test"}
    splits = {"elsewhere": other, "corrupted": noise}
    write_card(folder / "cards", "small", "small.npz", out_of_domain=splits)
    write_npz(folder / "few.npz", train=30)
    write_card(folder / "cards", "few", "few.npz")
    probes = ("--adaptation", "knn", "--adaptation", "linear")
    evaluate(folder, "pixels", "--task", "small", *probes)
    evaluate(folder, "pixels", "--task", "few", "--adaptation", "knn")
    arrays: dict[str, Any] = {}
    for seed, (split, items) in enumerate((("train", 20), ("val", 6), ("test", 8))):
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = draw_discs(items, seed=seed)
        arrays[f"{split}_labels"] = None
    write_npz(folder / "discs.npz", **arrays)
    noise = noise | {"severities": [5]}
    kind = {"kind": "segmentation", "metric": "dice", "out_of_domain": {"corrupted": noise}}
    write_card(folder / "cards", "discs", "discs.npz", **kind)
    (folder / "maps.py").write_text(MAPS)
    few = ("--task", "discs", "--budget", "10-shot", "--adaptation", "decoder")
    evaluate(folder, folder / "maps.py", *few)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the submission of raw pixels."""
    return Path(shutil.copytree(made / "out" / "pixels", tmp_path / "pixels"))
