"""Duplicates: planted copies are found, look-alikes are not."""

import functools
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medtransfer.data import duplicates
from medtransfer.data.duplicates import (
    Duplicates,
    Fingerprints,
    compare,
    fingerprint,
)
from medtransfer.phantoms import PHANTOMS, generate
from tests.conftest import REAL_DATA, needs_real_data

Images = NDArray[np.uint8]


def find_duplicates(train: Images, test: Images) -> Duplicates:
    return compare(fingerprint(train), fingerprint(test))


NAMES = ["natural", "chest-xray", "ct", "oct"]

generate_once = functools.cache(generate)


def draw(phantom: str, split: str, items: int = 40, size: int = 64) -> Images:
    return generate_once(phantom, split=split, items=items, size=size).images.copy()


def redraw(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def recode(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def resize(*sizes: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        for size in sizes:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return image

    return change


CHANGES: dict[str, Callable[[Images], Images]] = {
    "jpeg 90": lambda images: redraw(images, recode(90)),
    "jpeg 50": lambda images: redraw(images, recode(50)),
    "smaller and larger": lambda images: redraw(images, resize(32, 64)),
    "smaller": lambda images: redraw(images, resize(40)),
    "larger": lambda images: redraw(images, resize(100)),
    "brighter": lambda images: np.rint(images * 1.1).clip(0, 255).astype(np.uint8),
    "darker": lambda images: np.rint(images * 0.9).astype(np.uint8),
    "other range": lambda images: (images * 0.5 + 60).astype(np.uint8),
    "one pixel right": lambda images: images[:, :, np.maximum(np.arange(64) - 1, 0)],
    "one pixel up": lambda images: images[:, np.minimum(np.arange(64) + 1, 63)],
    "mirrored": lambda images: images[:, :, ::-1],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("phantom", NAMES)
def test_changed_copies_are_near(phantom: str, change: str) -> None:
    """A copy under any of the changes counts as near, never as exact, and names its original."""
    train, test = draw(phantom, "train"), draw(phantom, "test", items=12)
    planted = CHANGES[change](train[[7, 39]])
    test = redraw(test, resize(planted.shape[1]))
    test[[0, 11]] = planted
    assert find_duplicates(train, test) == Duplicates(0, 2, ((7, 0), (39, 11)))


@pytest.mark.parametrize("phantom", PHANTOMS)
def test_look_alikes_are_no_duplicates(phantom: str) -> None:
    """Different images of one kind are not reported, however alike they look."""
    assert find_duplicates(draw(phantom, "train", 120), draw(phantom, "test", 60)) == Duplicates(
        0, 0, ()
    )


@pytest.mark.parametrize("phantom", ["natural", "ct"])
def test_exact_copies(phantom: str) -> None:
    """Exact copies are counted once, not as near too, and the first original is named."""
    train, test = draw(phantom, "train"), draw(phantom, "test")
    train[30] = train[5]
    test[[1, 2, 9, 20]] = train[[39, 30, 0, 1]]
    assert find_duplicates(train, test) == Duplicates(4, 0, ((39, 1), (5, 2), (0, 9)))


def test_exact_copies_come_first() -> None:
    """The examples show exact copies before near ones, each kind in the order of the test."""
    train, test = draw("oct", "train"), draw("oct", "test")
    test[3] = redraw(train[[8]], recode(80))[0]
    test[17] = train[2]
    assert find_duplicates(train, test) == Duplicates(1, 1, ((2, 17), (8, 3)))


def test_copies_within_a_split() -> None:
    """Repeats are the images that an earlier one equals."""
    images = draw("ct", "train")
    images[[4, 6, 8]] = images[[3, 3, 7]]
    assert fingerprint(images).repeats == 3
    assert fingerprint(images[:4]).repeats == 0


@pytest.mark.parametrize("block", [8, 2048])
def test_the_nearest_is_named(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several near originals the closest one is named, in whatever block it stands."""
    monkeypatch.setattr(duplicates, "ITEMS", block)
    train = draw("chest-xray", "train")
    test = redraw(train[[20]], recode(90))
    train[10] = redraw(train[[20]], recode(30))[0]
    train[30] = redraw(train[[20]], resize(30, 64))[0]
    assert find_duplicates(train, test).examples == ((20, 0),)


def test_grey_and_colour_of_other_sizes() -> None:
    """A grey copy of another size is a near copy of a colour image, and the other way round."""
    colour = draw("natural", "train", size=96)
    grey = redraw(draw("natural", "test", size=96), lambda image: image.convert("L"))
    grey[[5, 6]] = redraw(colour[[1, 2]], lambda image: image.convert("L"))
    grey = redraw(grey, resize(64))
    assert find_duplicates(colour, grey) == Duplicates(0, 2, ((1, 5), (2, 6)))
    assert find_duplicates(grey, colour) == Duplicates(0, 2, ((5, 1), (6, 2)))


def test_the_shape_is_part_of_an_exact_copy() -> None:
    """The same bytes in another shape are another image."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 24, 32), dtype=np.uint8)
    assert find_duplicates(pixels, pixels.reshape(1, 32, 24)).exact == 0


def test_flat_images_are_near_to_none() -> None:
    """Images without contrast are copies only where they are equal to the last pixel."""
    grey = np.arange(0, 250, 10, dtype=np.uint8)[:, None, None]
    flat = np.broadcast_to(grey, (25, 32, 32)).copy()
    speck = flat.copy()
    speck[:, 3, 3] += 5
    assert find_duplicates(flat, speck) == Duplicates(0, 0, ())
    assert find_duplicates(speck[:10], speck[10:]) == Duplicates(0, 0, ())
    assert find_duplicates(flat, flat[[2]]) == Duplicates(1, 0, ((2, 0),))


def test_negatives_are_no_copies() -> None:
    """A pattern and its opposite are not the same, even where something else is alike to both."""
    images = draw("chest-xray", "train")
    assert find_duplicates(images, 255 - images) == Duplicates(0, 0, ())
    turned = ndimage.rotate(255 - images[0], 4, reshape=False, order=1, mode="nearest")
    train = np.stack([images[0], turned])
    test = np.stack([255 - images[0], redraw(images[:1], recode(90))[0]])
    alike = fingerprint(test).patterns @ fingerprint(train).patterns.T > duplicates.ALIKE
    np.testing.assert_array_equal(alike, [[False, True], [True, False]])
    assert find_duplicates(train, test) == Duplicates(0, 1, ((0, 1),))


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17])
def test_small_images(size: int) -> None:
    """Images of fewer pixels than cells are compared too, without a warning."""
    images = np.random.default_rng(size).integers(0, 256, (6, size, size), dtype=np.uint8)
    assert find_duplicates(images, images[[4]]).exact == 1
    assert np.isfinite(fingerprint(images).patterns).all()


def test_empty_splits() -> None:
    """Nothing is a duplicate of nothing."""
    images = draw("ct", "train", 4)
    for train, test in ((images[:0], images), (images, images[:0]), (images[:0], images[:0])):
        assert find_duplicates(train, test) == Duplicates(0, 0, ())


@pytest.mark.parametrize("size", [1, 7, 8, 39])
def test_batches_and_blocks_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies on both sides of every border are found, whatever the sizes of batches and blocks."""
    train, test = draw("chest-xray", "train"), draw("chest-xray", "test", items=24)
    test[[0, 6, 7, 8, 23]] = redraw(train[[39, 7, 8, 6, 0]], recode(70))
    test[[1, 9]] = train[[38, 7]]
    whole, patterns = find_duplicates(train, test), fingerprint(train).patterns
    assert whole == Duplicates(2, 5, ((38, 1), (7, 9), (39, 0)))
    monkeypatch.setattr(duplicates, "ITEMS", size)
    monkeypatch.setattr(duplicates, "PIXELS", size * 64 * 64)
    assert find_duplicates(train, test) == whole
    np.testing.assert_allclose(fingerprint(train).patterns, patterns, atol=1e-6)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory-mapped split is read in batches, its blocks are compared one by one."""
    np.save(tmp_path / "images.npy", np.tile(draw("ct", "train", 20), (50, 1, 1)))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    monkeypatch.setattr(duplicates, "PIXELS", 20 * 64 * 64)
    monkeypatch.setattr(duplicates, "ITEMS", 64)
    tracemalloc.start()
    prints = fingerprint(images)
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    kept = tracemalloc.get_traced_memory()[0]
    others = Fingerprints([b""] * 1000, prints.patterns)
    assert compare(others, prints).near == 1000
    comparing = tracemalloc.get_traced_memory()[1] - kept
    tracemalloc.stop()
    assert reading < prints.patterns.nbytes + 1_500_000 < images.nbytes
    assert comparing < prints.patterns.nbytes * 2 + 1_500_000  # 1000 x 1000 floats: 4 MB


def explain(train: Images, test: Images) -> NDArray[np.float64]:
    """The definition once more, one pair after the other: least squares on scipy's filters."""

    def pattern(image: Images) -> NDArray[np.float64]:
        grey = np.asarray(image, dtype=float)
        if grey.ndim == 3:
            grey = grey @ [0.299, 0.587, 0.114]
        cells = np.empty((24, 24))
        for row, column in np.ndindex(24, 24):
            y, x = ((np.arange(side) + 0.5) * 24 / side - 0.5 for side in grey.shape)
            weights = np.outer(np.maximum(2 - abs(y - row), 0), np.maximum(2 - abs(x - column), 0))
            cells[row, column] = np.average(grey, weights=weights)
        blur = [
            ndimage.gaussian_filter(c, 2, mode="constant", truncate=9) for c in (cells, cells**0)
        ]
        return cells - blur[0] / blur[1]

    explained = np.zeros((len(train), len(test)))
    patterns = [pattern(image) for image in test]
    for i, image in enumerate(train):
        own = pattern(image)
        columns = [part.ravel() - part.mean() for part in (own, *np.gradient(own))]
        for j, other in enumerate(patterns):
            target = other.ravel() - other.mean()
            if np.corrcoef(columns[0], target)[0, 1] <= duplicates.ALIKE:
                continue
            fit = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)[0] @ columns
            explained[i, j] = np.linalg.norm(fit) / np.linalg.norm(target)
    return explained


@pytest.mark.parametrize("phantom", ["natural", "chest-xray"])
def test_agrees_with_the_definition(phantom: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and pairs are those of a slow, independent implementation, mirrored or not."""
    train = draw(phantom, "train", 10, size=48)
    test = draw(phantom, "test", 8, size=48)
    test[1] = train[3][:, ::-1]
    for item, angle in ((2, 1), (4, 2), (5, 3), (7, 5)):
        test[item] = ndimage.rotate(train[item], angle, reshape=False, order=1)
    scores = explain(train, np.concatenate([test, test[:, :, ::-1]]))
    scores = np.maximum(scores[:, : len(test)], scores[:, len(test) :])
    counts = set()
    for same in np.linspace(0.81, 0.99, 10):
        near = np.flatnonzero(scores.max(axis=0) > same)
        pairs = tuple((int(scores[:, item].argmax()), int(item)) for item in near[:3])
        monkeypatch.setattr(duplicates, "SAME", same)
        assert find_duplicates(train, test) == Duplicates(0, len(near), pairs)
        counts.add(len(near))
    assert len(counts) > 2


@needs_real_data
def test_real_duplicates() -> None:
    """CIFAR-10 has changed copies over its splits, one of them mirrored; X-rays only look alike."""
    found = {}
    for name in ("cifar10", "kermany_cxr", "pneumoniamnist_28"):
        with np.load(REAL_DATA / f"{name}.npz", allow_pickle=False) as file:
            prints = {split: fingerprint(file[f"{split}_images"]) for split in ("train", "test")}
        found[name] = compare(prints["train"], prints["test"])
    assert found == {
        "cifar10": Duplicates(0, 3, ((1587, 330), (838, 457), (932, 1045))),
        "kermany_cxr": Duplicates(0, 0, ()),
        "pneumoniamnist_28": Duplicates(0, 0, ()),
    }
