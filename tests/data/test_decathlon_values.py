"""Values and archives of the Decathlon."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.core.errors import InputError
from medtransfer.data.files.cache import cache_folder
from medtransfer.data.sources import decathlon
from tests.helpers.decathlon import (
    LPS,
    SHAPE,
    TASK,
    decode,
    draw,
    files_of,
    one_volume,
    save,
    source,
    write_task,
)

nibabel: Any = pytest.importorskip("nibabel", reason="nibabel reads the volumes")


def test_window(root: Path) -> None:
    """The window's ends are black and white, what lies beyond is clipped, between is linear."""
    image, mask = draw(0)
    image[:, :, :] = -1000
    image[0, :, :], image[1, :, :], image[2, :, :], image[3, :, :] = -160, 40, 240, 900
    one_volume(root, image, mask)
    _, images, _ = decode(root, source(size=40, window=(-160, 240)))
    assert images[0, 20, :5].tolist() == [0, 128, 255, 255, 0]


def test_default_window(root: Path) -> None:
    """Without a window the zeros around a head and single bright voxels decide nothing."""
    image, mask = draw(0)
    image[:] = 0
    rng = np.random.default_rng(0)
    image[10:30, 5:25] = rng.integers(1000, 2000, (20, 20, 12))
    image[20, 15, 0] = 30000
    one_volume(root, image, mask)
    _, images, _ = decode(root, source(size=40, window=None))
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    expected = np.rint(255 * ((image - low) / (high - low)).clip(0, 1))
    np.testing.assert_array_equal(images[0, 5:35], expected[:, :, 2].T)
    assert images[:, 10:30, 10:30].std() > 60


@pytest.mark.parametrize("value", [0, 7, -7])
def test_constant_volume(value: int, root: Path) -> None:
    """A volume of one value is a picture of one value, not a division by zero."""
    image, mask = draw(0)
    image[:] = value
    one_volume(root, image, mask)
    _, images, _ = decode(root, source(size=40, window=None))
    assert np.unique(images[:, 5:35]).tolist() == ([255] if value > 0 else [0])


def test_channel(root: Path) -> None:
    """Of a 4-D volume the chosen channel is read, and turned as a 3-D one is."""
    first, mask = draw(1)
    second, _ = draw(2)
    one_volume(root, second, mask)
    _, images, _ = decode(root, source())
    for axes in ("LPS", "RAS"):
        one_volume(root, np.stack([first, second], axis=3), mask, axes)
        for path in (root / "labelsTr").iterdir():
            save(path, mask)
        np.testing.assert_array_equal(decode(root, source(channel=1))[1], images)
        assert (decode(root, source(channel=0))[1] != images).any()


def test_scaled_and_float_files(root: Path) -> None:
    """Values are those after the header's slope and intercept; a float mask of ids is a mask."""
    image, mask = draw(0)
    one_volume(root, image, mask)
    _, images, masks = decode(root, source())
    for path in (root / "imagesTr").iterdir():
        stored = nibabel.Nifti1Image(image, LPS)
        stored.header.set_slope_inter(0.5, -5)
        nibabel.save(stored, path)
    for path in (root / "labelsTr").iterdir():
        save(path, mask.astype(np.float32))
    _, again, masks_again = decode(root, source(window=(-5, 122.5)))
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(masks_again, masks)


def test_volumes_without_a_label_are_left_out(root: Path) -> None:
    """A volume whose mask is empty gives no slice; the other volumes' splits stay."""
    before = decathlon.decode(source("train"), root.parent).patients or []
    _, mask = files_of(root, "train")
    save(mask, np.zeros(SHAPE, dtype=np.uint8))
    after = decathlon.decode(source("train"), root.parent).patients or []
    assert after == [name for name in before if name != before[0]] != []


def test_one_volume_in_memory(root: Path) -> None:
    """The images of many volumes are never in memory together."""
    shape = (64, 64, 32)
    one_volume(root, *(voxels.astype(np.float64) for voxels in draw(0, shape)))
    decoded = decathlon.decode(source("train", slices=2), root.parent)
    volume = 8 * 64 * 64 * 32
    tracemalloc.start()
    assert sum(len(batch) for batch in decoded.images) == 6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Since Python 3.12 gzip unpacks 128 KB at once, which are the whole of such a volume.
    assert peak < (2.5 if sys.version_info < (3, 12) else 3.5) * volume


@pytest.fixture
def archive(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The task as a .tar in the data folder, with the published checksum; nothing unpacked."""
    path = root.parent / f"{TASK}.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(root, arcname=TASK)
    shutil.rmtree(root)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    official = decathlon.official_tasks()
    monkeypatch.setitem(official, TASK, official[TASK].model_copy(update={"md5": md5}))
    monkeypatch.setenv("BENCH_OFFLINE", "1")
    monkeypatch.setenv("BENCH_CACHE", str(root.parents[1] / "cache"))
    return path


def test_archive(archive: Path) -> None:
    """An archive gives what the unpacked folder gives; the data folder is left as it is."""
    folder, identity = archive.parent, decathlon.identify(source(), archive.parent)
    _, images, masks = decode(archive.with_name(TASK), source())
    assert list(folder.iterdir()) == [archive]
    assert decathlon.identify(source(), folder) == identity == decathlon.identify(source(), None)
    _, expected, expected_masks = decode(write_task(folder / "decathlon"), source())
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(masks, expected_masks)


def test_archive_is_unpacked_once(archive: Path) -> None:
    """What the cache holds is used without the archive."""
    first, *_ = decode(archive.with_name(TASK), source())
    archive.unlink()
    again, *_ = decode(archive.with_name(TASK), source())
    assert again.ids == first.ids
    shutil.rmtree(cache_folder() / "extracted")
    with pytest.raises(InputError, match=f"{TASK}.tar"):
        decathlon.decode(source(), archive.parent)


def test_damaged_archive(archive: Path) -> None:
    """An archive with another checksum is refused and nothing is unpacked."""
    archive.write_bytes(archive.read_bytes()[:-512] + b"x" * 512)
    with pytest.raises(InputError, match=f"{TASK}.tar: MD5"):
        decathlon.decode(source(), archive.parent)


def test_identity_of_a_folder(root: Path) -> None:
    """A changed file changes the identity of its split, and of no other."""
    before = {split: decathlon.identify(source(split), root.parent) for split in ("train", "test")}
    image, _ = files_of(root, "test")
    save(image, draw(77)[0])
    assert decathlon.identify(source("train"), root.parent) == before["train"]
    assert decathlon.identify(source("test"), root.parent) != before["test"]
    json.dumps(before)
