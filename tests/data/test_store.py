"""The store of decoded splits."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.data.files.cache import cache_folder
from medtransfer.data.sources import npz as npz_source
from tests.conftest import Small, write_npz
from tests.helpers.data import IMAGES, edit_card, npy_header, open_card, refusal, replace_member


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BENCH_CACHE", str(folder))
    return folder


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "splits").iterdir() if path.is_dir())


def test_decoded_splits_equal_the_file(small: Small, own_cache: Path) -> None:
    """The store gives back what is in the file, memory-mapped, with int64 labels."""
    arrays = np.load(small.npz)
    task = open_card(small.card, small.data)
    assert cache_folder() == own_cache
    assert list(task.splits) == ["train", "validation", "in_domain", "again"]
    assert list(task.tests) == ["in_domain", "again"]
    for name, part in (("train", "train"), ("validation", "val"), ("again", "test")):
        split = task.splits[name]
        assert isinstance(split.images, np.memmap) and split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, arrays[f"{part}_images"])
        np.testing.assert_array_equal(split.labels, arrays[f"{part}_labels"].ravel())
        assert split.ids == [str(row) for row in range(len(split))]


def test_split_is_decoded_once(
    small: Small, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a task again decodes nothing, and two names of one split share an entry."""
    calls = []
    decode = npz_source.decode

    def count(source: Any, folder: Any) -> Any:
        calls.append(source.split)
        return decode(source, folder)

    monkeypatch.setattr(npz_source, "decode", count)
    first = open_card(small.card, small.data)
    second = open_card(small.card, small.data)
    assert calls == ["train", "val", "test"]
    assert first.fingerprint == second.fingerprint
    assert len(entries(own_cache)) == 3


def test_changed_file_is_decoded_again(small: Small, own_cache: Path) -> None:
    """An entry belongs to one version of a file."""
    before = open_card(small.card, small.data).splits["train"]
    write_npz(small.npz, train_images=255 - IMAGES)
    after = open_card(small.card, small.data).splits["train"]
    np.testing.assert_array_equal(after.images, 255 - before.images)


BUILDER = """
import sys, time
from pathlib import Path
from medtransfer.data.sources import npz
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card

card, data, ready, go = map(Path, sys.argv[1:])
decode, calls = npz.decode, []

def slow(source, folder):
    calls.append(source)
    time.sleep(0.2)
    return decode(source, folder)

npz.decode = slow
ready.touch()
while not go.exists():
    time.sleep(0.01)
fingerprint = open_task(load_card(card), folder=data).fingerprint
print(fingerprint, len(calls))
"""


def test_two_processes_may_build_at_once(small: Small, own_cache: Path, tmp_path: Path) -> None:
    """Of two builders one builds and the other waits; both get the same data."""
    ready = [tmp_path / "ready-0", tmp_path / "ready-1"]
    go = tmp_path / "go"
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, small.card, small.data, mark, go],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in ready
    ]
    try:
        while not all(mark.exists() for mark in ready):
            assert all(builder.poll() is None for builder in builders)
            time.sleep(0.02)
        go.touch()
        results = [builder.communicate(timeout=60)[0].split() for builder in builders]
    finally:
        for builder in builders:
            builder.kill()
    assert results[0][0] == results[1][0] == open_card(small.card, small.data).fingerprint
    assert sum(int(result[1]) for result in results) == 3
    assert len(entries(own_cache)) == 3
    assert not list((own_cache / "splits").glob("build-*"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("images.npy", truncate),
        ("images.npy", Path.unlink),
        ("labels.npy", truncate),
        ("meta.json", truncate),
        ("meta.json", lambda path: path.write_text("{}")),
        ("meta.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_entry_is_built_again(
    small: Small, own_cache: Path, file: str, damage: Callable[[Path], Any]
) -> None:
    """A damaged store costs time, never a result."""
    expected = open_card(small.card, small.data)
    content = np.array(expected.splits["train"].images)
    fingerprint = expected.fingerprint
    for entry in entries(own_cache):
        damage(entry / file)
    task = open_card(small.card, small.data)
    assert task.fingerprint == fingerprint
    np.testing.assert_array_equal(task.splits["train"].images, content)
    assert len(entries(own_cache)) == 3


def test_failed_build_leaves_nothing(small: Small, own_cache: Path) -> None:
    """Images that turn out damaged while they stream leave no entry behind."""
    member = npy_header((60, 16, 16), "|u1") + bytes(60 * 256)
    replace_member(small.npz, "train_images.npy", member)
    content = bytearray(small.npz.read_bytes())
    at = content.find(bytes(60 * 256))
    content[at + 100] = 1  # the CRC no longer fits
    small.npz.write_bytes(content)
    assert "train_images" in refusal(small.card, small.data)
    assert entries(own_cache) == []


def test_content_hash_is_that_of_the_pixels(small: Small) -> None:
    """Compression, the file's name and its other splits do not enter the hash."""
    expected = open_card(small.card, small.data)
    np.savez(small.data / "plain.npz", **np.load(small.npz))
    for split, part in (("train", "train"), ("validation", "val"), ("in_domain", "test")):
        edit_card(small.card, **{split: {"npz": "plain.npz", "split": part}})
    plain = open_card(small.card, small.data)
    assert (small.data / "plain.npz").stat().st_size > small.npz.stat().st_size
    assert plain.splits["train"].sha256 == expected.splits["train"].sha256
    assert plain.fingerprint == expected.fingerprint


@pytest.mark.parametrize("colour", [False, True])
def test_streaming_in_batches_changes_nothing(
    small: Small, own_cache: Path, monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    """Images larger than one batch arrive whole and in order, with the same hash."""
    images = np.stack([IMAGES, 255 - IMAGES, IMAGES // 2], axis=-1) if colour else IMAGES
    write_npz(small.npz, train_images=images)
    whole = open_card(small.card, small.data).splits["train"]
    shutil.rmtree(own_cache)
    # 7 images a batch: the last batch is a part of one. Then less than one image.
    for size in (7 * images[0].nbytes + 5, 1):
        monkeypatch.setattr(npz_source, "_BATCH_BYTES", size)
        split = open_card(small.card, small.data).splits["train"]
        np.testing.assert_array_equal(split.images, images)
        assert split.sha256 == whole.sha256
        shutil.rmtree(own_cache)


def test_store_that_cannot_be_written_is_refused(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names BENCH_CACHE when decoded data cannot be kept."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file"))
    assert "set BENCH_CACHE" in refusal(small.card, small.data)
