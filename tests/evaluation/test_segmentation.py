"""Segmentation through the real command line, on small images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medtransfer.adaptation.augmentation import DRAWS, augment, augment_pairs
from medtransfer.metrics import evaluate
from medtransfer.specs.protocol import Augmentation
from medtransfer.specs.record import read_records
from tests.conftest import Bench, write_card, write_npz
from tests.helpers.segmentation import MAPS, draw_discs


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """A folder with a segmentation task, a classification task, and an encoder with maps."""
    arrays: dict[str, Any] = {}
    for seed, (split, items) in enumerate((("train", 40), ("val", 12), ("test", 16))):
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = draw_discs(items, seed=seed)
        arrays[f"{split}_labels"] = None
    write_npz(tmp_path / "discs.npz", **arrays)
    corrupted = {"corrupt": "in_domain", "kinds": ["gaussian-noise"], "severities": [5]}
    changes = {"kind": "segmentation", "metric": "dice", "out_of_domain": {"corrupted": corrupted}}
    write_card(tmp_path / "cards", "discs", "discs.npz", **changes)
    write_npz(tmp_path / "small.npz")
    write_card(tmp_path / "cards", "small", "small.npz")
    (tmp_path / "maps.py").write_text(MAPS)
    return tmp_path


def command(folder: Path, encoder: object, *more: object) -> list[object]:
    return [
        *("evaluate", "--encoder", encoder, "--protocol", "quick", "--out", folder / "out"),
        *("--tasks", folder / "cards", "--data", folder, *more),
    ]


def test_segmentation_runs_the_whole_way(discs: Path, bench: Bench) -> None:
    """Decoder and fine-tuning learn the discs; records, arrays and board are complete."""
    options = ("--task", "discs", "--budget", "10-shot")
    planned = bench(*command(discs, discs / "maps.py", *options, "--dry-run"))
    assert planned.code == 0 and "2 of 2 cells to run" in planned.out
    outcome = bench(*command(discs, discs / "maps.py", *options))
    assert outcome.code == 0, outcome.err
    records = {r.adaptation: r for r in read_records(discs / "out" / "maps" / "records.jsonl")}
    assert set(records) == {"decoder", "finetune"}
    _, truth = draw_discs(16, seed=2)
    for record in records.values():
        assert record.status == "ok" and record.task.metric == "dice"
        assert record.counts == [10] and record.task.chance == 0
        metrics = record.metrics["in_domain"]
        assert set(record.metrics) == {"in_domain", "corrupted/gaussian-noise/5"}
        assert metrics["dice"] > 0.5  # type: ignore[operator]
        assert metrics["dice"] == pytest.approx(
            (metrics["dice/second"] + metrics["dice/third"]) / 2  # type: ignore[operator]
        )
        assert record.predictions is not None and record.cost is not None
        stored = np.load(discs / "out" / "maps" / record.predictions.file, allow_pickle=False)
        found = stored[f"{record.predictions.key}/in_domain"]
        assert found.dtype == np.uint8 and found.shape == truth.shape
        weights = np.ones((0, 16))
        again = evaluate(found, truth, weights, kind="segmentation", classes=3)
        assert again.values["dice"] == pytest.approx(metrics["dice"])
    decoder, finetuned = records["decoder"].cost, records["finetune"].cost
    assert decoder is not None and finetuned is not None
    assert decoder.trainable_parameters < finetuned.trainable_parameters
    assert decoder.parameters == finetuned.parameters == finetuned.trainable_parameters
    assert decoder.inference_flops_per_image == finetuned.inference_flops_per_image
    board = bench("leaderboard", "--submissions", discs / "out", "--out", discs / "board")
    assert board.code == 0, board.err
    [tasks] = (discs / "board" / "tasks").glob("*.md")
    assert "dice, in-domain" in tasks.read_text()


def test_encoder_without_maps_does_the_rest(discs: Path, bench: Bench) -> None:
    """Raw pixels have no feature maps: said, and the classification task is run."""
    outcome = bench(*command(discs, "pixels", "--adaptation", "knn", "--adaptation", "decoder"))
    assert outcome.code == 0, outcome.err
    assert "skipped discs: pixels: no feature maps, which segmentation needs" in outcome.out
    records = read_records(discs / "out" / "pixels" / "records.jsonl")
    assert {record.task.name for record in records} == {"small"}
    alone = bench(*command(discs, "pixels", "--task", "discs"))
    assert alone.code == 2 and "no feature maps, which segmentation needs" in alone.err


def test_masks_move_with_their_images() -> None:
    """Where the crop takes a pixel of the image, it takes that of the mask."""
    y, x = np.mgrid[:48, :48]
    mask = ((x - 30) ** 2 + (y - 14) ** 2 < 60).astype(np.int64)
    masks = torch.from_numpy(np.stack([mask] * 20))
    pixels = masks[:, None].float() * 200
    settings = Augmentation(crop=0.5, jitter=0)
    draws = torch.rand((DRAWS, 20), generator=torch.Generator().manual_seed(1))
    changed, moved = augment_pairs(pixels, masks, draws, settings, flip=True)
    same = augment(pixels, draws, settings, flip=True)
    assert torch.equal(changed, same) and moved.dtype == masks.dtype
    assert ((changed[:, 0] > 100) == (moved == 1)).float().mean() > 0.99
    assert (moved != masks).any()
