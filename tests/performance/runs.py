"""Rows of `make performance` about whole evaluations: what is reused, processes, memory."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from unittest.mock import patch

import numpy as np
from torch import nn

from medtransfer import evaluate
from medtransfer.cost.machine import peak_memory
from medtransfer.data import store
from medtransfer.data.files.cache import cache_folder
from medtransfer.data.split import Split
from medtransfer.encoders import features
from medtransfer.encoders.encoder import Encoder, check_encoder, resolve_device
from medtransfer.encoders.registry import find
from tests.performance.measure import Measured, Row, measure

__all__ = ["ROWS"]


def count_decoded() -> Measured:
    """Splits that a second encoder decodes on the data of a first one."""
    with patch.object(store, "_build", wraps=store._build) as build:
        _probe("resnet18")
        first = build.call_count
        _probe("vit_tiny")
    assert first > 0
    return Measured([build.call_count - first], (f"the first encoder decoded {first}",))


def count_computed_again() -> Measured:
    """Splits whose features the same encoder computes twice when budgets are added."""
    with patch.object(features, "_compute", wraps=features._compute) as compute:
        _probe("resnet18", budgets=["1-shot"])
        _probe("resnet18")
    splits = Counter(call.args[1].sha256 for call in compute.call_args_list)
    assert splits
    note = f"{splits.total()} were computed, of {len(splits)} splits"
    return Measured([splits.total() - len(splits)], (note,))


def _probe(encoder: str, budgets: Sequence[str] = ()) -> None:
    """Evaluate an encoder on a small task."""
    evaluate(
        encoder,
        tasks=["phantom_natural"],
        adaptations=["knn", "linear"],
        budgets=budgets,
        protocol="quick",
        out=cache_folder() / "submissions",
    )


def share_cells(encoder: str, protocol: str, *options: str) -> Measured:
    """The command line with two processes, against one, on the phantoms.

    All features are cached. Both start anew, and so pay for imports, for the encoder and for the
    plan.
    """
    numbers = itertools.count()

    def run(jobs: int) -> None:
        subprocess.run(
            [
                *(sys.executable, "-c", "from medtransfer.cli import main; main()", "evaluate"),
                *("--encoder", encoder, "--protocol", protocol, "--jobs", str(jobs)),
                *("--out", str(cache_folder() / f"submissions-{next(numbers)}")),
                *options,
            ],
            check=True,
            capture_output=True,
        )

    run(1)  # which caches the features
    return measure(partial(run, 2), (partial(run, 1), 1))


def hold_features() -> Measured:
    """Peak memory of a process that embeds 20,000 images of 224 px, against 2,000.

    The network only averages squares of pixels, to 507 features.
    """
    few, many = (_peak_in_child(items) for items in (2_000, 20_000))
    return Measured([many / few], (f"{few / 2**20:.0f} and {many / 2**20:.0f} MiB",))


def _peak_in_child(items: int) -> int:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_embed, items).result()


def _embed(items: int) -> int:
    """Embed images; returns the peak of this process's resident memory in bytes."""
    # All zeros take no room on the disk, and as much memory as others.
    path = cache_folder() / f"images-{items}.npy"
    shape = (items, 224, 224, 3)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    split = Split(images, np.zeros(items, np.int64), [""] * items, path.name, path.name)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(13), nn.Flatten())
    encoder = Encoder(find("resnet18").card, network, identity="means", size=224)
    check_encoder(encoder.to(resolve_device("auto")))
    features.frozen_features(encoder, split)
    return peak_memory(resolve_device("cpu"))


_PROBES = ("--adaptation", "knn", "--adaptation", "linear")

ROWS = [
    Row("decoding by a second encoder", "splits decoded again", 0, count_decoded, most=True),
    Row(
        "features when budgets are added",
        "splits embedded again",
        0,
        count_computed_again,
        most=True,
    ),
    Row(
        "two processes, 492 cells of probes",
        "--jobs 1",
        1.6,
        partial(share_cells, "pixels", "v1", *_PROBES),
    ),
    Row("peak memory, 20,000 images @224", "2,000 images", 1.1, hold_features, most=True),
]
