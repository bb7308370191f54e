"""Official files, synthetic ones from a local server, as their loaders read them."""

from __future__ import annotations

import pickle
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medtransfer.core.errors import InputError
from medtransfer.data import official
from medtransfer.data.files.download import obtain
from medtransfer.data.labels import conform
from medtransfer.data.sources import medmnist, npz, torchvision
from medtransfer.specs.source import MedmnistSource, MedsegbenchSource, Source, TorchvisionSource
from medtransfer.specs.task import TaskCard
from tests.conftest import Harmful
from tests.helpers.official import (
    CARDS,
    LOADERS,
    Handler,
    Publisher,
    fetch,
    mask_arrays,
    official_arrays,
    pixels,
    publish_cifar,
    publish_flowers,
    publish_pets,
    publish_stl,
    split_of,
)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """A server with a synthetic version of everything that the cards need."""
    folder = tmp_path_factory.mktemp("published")
    handler = partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        publisher = Publisher(folder, f"http://127.0.0.1:{server.server_port}")
        sources = [source for card in CARDS.values() for source in card.sources.values()]
        for name in {source.medmnist for source in sources if isinstance(source, MedmnistSource)}:
            arrays = official_arrays(official.array_sets("medmnist")[name], 224)
            publisher.publish_arrays("medmnist", name, 224, arrays)
        for name in ("cifar10", "cifar100"):
            publish_cifar(publisher, name)
        publish_stl(publisher)
        publish_pets(publisher)
        publish_flowers(publisher)
        yield publisher
        server.shutdown()


@pytest.fixture
def published(
    publisher: Publisher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Publisher:
    """The synthetic files are the official ones, and nothing has been downloaded yet."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(official, "array_sets", lambda name: publisher.arrays[name])
    monkeypatch.setattr(official, "image_sets", lambda: publisher.images)
    for reader, attributes in publisher.classes.items():
        for name, value in attributes.items():
            monkeypatch.setattr(reader, name, value)
    return publisher


@pytest.mark.parametrize("name", CARDS)
def test_every_source_of_a_card_loads(published: Publisher, name: str) -> None:
    """Files in the official layout are fetched, read and expressed in the card's classes."""
    card: TaskCard = CARDS[name]
    for split, source in card.sources.items():
        decoded = conform(fetch(source), card, source.select)
        images = pixels(decoded)
        assert len(images) == len(decoded.labels) == len(set(decoded.ids)) > 0
        if card.kind == "multilabel":
            assert decoded.labels.shape[1] == len(card.classes)
            assert set(np.unique(decoded.labels)) == {0, 1}
        else:
            wanted = (
                range(len(card.classes))
                if source.select is None
                else [card.classes.index(label) for label in source.select]
            )
            assert set(decoded.labels) == set(wanted), split


@pytest.mark.parametrize("name", ["organamnist", "chestmnist", "bloodmnist"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_medmnist_gives_what_is_in_the_file(published: Publisher, name: str, split: str) -> None:
    """Images, labels and their order are the file's, the names are the official ones."""
    decoded = fetch(MedmnistSource.model_validate({"medmnist": name, "split": split}))
    truth = published.truth[f"{name}_224.npz"]
    np.testing.assert_array_equal(pixels(decoded), truth[f"{split}_images"])
    labels = truth[f"{split}_labels"]
    expected = labels if name == "chestmnist" else labels[:, 0]
    np.testing.assert_array_equal(decoded.labels, expected)
    assert decoded.labels.dtype == np.int64
    assert decoded.ids == [str(row) for row in range(len(labels))]
    assert decoded.label_names == official.array_sets("medmnist")[name].labels


def test_other_file_under_the_official_name_is_refused(
    published: Publisher, tmp_path: Path
) -> None:
    """A 28-pixel file sold as 224 pixels fails by its checksum, and by its shape in any case."""
    source = MedmnistSource(medmnist="breastmnist", split="test")
    entry = official.array_sets("medmnist")["breastmnist"]
    home_made = tmp_path / "breastmnist_224.npz"
    np.savez(home_made, **official_arrays(entry, 28))
    with pytest.raises(InputError, match="MD5"):
        fetch(source, tmp_path)
    with pytest.raises(InputError) as caught:
        medmnist.decode(source, tmp_path)
    assert str(caught.value) == (
        f"{home_made}: test_images: shape (6, 28, 28); the official file has (6, 224, 224)"
    )


def test_missing_file_says_how_to_get_it(published: Publisher) -> None:
    """Decoding downloads nothing; it says what would."""
    sources = [
        MedmnistSource(medmnist="breastmnist", split="test"),
        TorchvisionSource(torchvision="cifar10", split="test"),
    ]
    for source in sources:
        with pytest.raises(InputError, match=r"not found; `bench data fetch` downloads it$"):
            LOADERS[type(source)].decode(source, None)


@pytest.mark.parametrize(
    "source",
    [
        MedmnistSource(medmnist="breastmnist", split="test"),
        TorchvisionSource(torchvision="stl10", split="test"),
    ],
)
def test_identity_outlives_the_download(published: Publisher, source: Source) -> None:
    """The key of a decoded split is the same before the download, after it, and without it."""
    loader = LOADERS[type(source)]
    before = loader.identify(source, None)
    for file in loader.files(source):
        path = obtain(file, None)
        assert loader.identify(source, None) == before
        path.unlink()
        assert file.md5 in str(before)
    assert loader.identify(source, None) == before


@pytest.mark.parametrize(
    ("name", "values", "dtype"),
    [("drive", 2, "uint8"), ("kvasir", 256, "uint8"), ("wbc", 3, "uint8"), ("wbc", 3, "int64")],
)
def test_medsegbench_gives_images_and_masks(
    published: Publisher, name: str, values: int, dtype: str
) -> None:
    """Masks are class ids; of two classes any value but 0 is foreground."""
    arrays = mask_arrays(values, dtype)
    published.publish_arrays("medsegbench", name, 128, arrays)
    decoded = fetch(MedsegbenchSource(medsegbench=name, split="val", size=128))
    np.testing.assert_array_equal(pixels(decoded), arrays["val_images"])
    assert decoded.masks is not None
    masks = np.concatenate(list(decoded.masks))
    assert masks.dtype == np.uint8
    expected = arrays["val_label"] != 0 if name != "wbc" else arrays["val_label"]
    np.testing.assert_array_equal(masks, expected)
    assert decoded.labels.shape == (3, 0)
    assert decoded.label_names == official.array_sets("medsegbench")[name].labels


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"test_masks: shape \(3, 8, 9\); \(3, 8, 8\) is expected"),
        (np.zeros((3, 8, 8)), "test_masks: float64 masks; uint8 class ids are expected"),
        (np.full((3, 8, 8), -1), "test_masks: value -1; 0 to 255 is expected"),
        (np.full((3, 8, 8), 300), "test_masks: value 300; 0 to 255 is expected"),
    ],
)
def test_wrong_masks_are_refused(tmp_path: Path, masks: np.ndarray[Any, Any], message: str) -> None:
    """Masks have the shape of their images and ids that fit into a byte."""
    path = tmp_path / "small.npz"
    np.savez(path, test_images=np.zeros((3, 8, 8), np.uint8), test_masks=masks)
    with pytest.raises(InputError, match=message):
        list(npz.open_split(path, "test").masks or ())


def test_users_masks_are_read(tmp_path: Path) -> None:
    """A user's file has its masks in ``<split>_masks``; class labels beside them are kept."""
    path = tmp_path / "small.npz"
    images, masks = np.zeros((3, 8, 8, 3), np.uint8), np.arange(192, dtype=np.uint8)
    arrays = {"test_images": images, "test_masks": masks.reshape(3, 8, 8)}
    np.savez(path, **arrays)
    decoded = npz.open_split(path, "test")
    np.testing.assert_array_equal(np.concatenate(list(decoded.masks or ())).ravel(), masks)
    assert decoded.labels.shape == (3, 0)
    np.savez(path, test_labels=np.array([2, 0, 1]), **arrays)
    assert npz.open_split(path, "test").labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([[1, 0], [0, 1], [1, 1]], np.uint8), [[1, 0], [0, 1], [1, 1]]),
        (np.array([[1, -1], [0, 1], [-1, 1]], np.int8), [[1, -1], [0, 1], [-1, 1]]),
        (np.array([[1, np.nan], [0, 1], [-1, 1]]), [[1, -1], [0, 1], [-1, 1]]),
        (np.array([[True, False]] * 3), [[1, 0]] * 3),
        (np.array([[1, 2], [0, 1], [1, 1]]), "not 2"),
        (np.array([[1, 0.5], [0, 1], [1, 1]]), "not 0.5"),
        (np.array([["a", "b"]] * 3), "<U1; 1, 0 and -1"),
    ],
)
def test_many_labels_an_item(
    tmp_path: Path, labels: np.ndarray[Any, Any], expected: list[list[int]] | str
) -> None:
    """Two columns and more are labels that are there (1), are not (0) or are unknown (-1)."""
    path = tmp_path / "small.npz"
    np.savez(path, test_images=np.zeros((3, 8, 8), np.uint8), test_labels=labels)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected) as caught:
            npz.open_split(path, "test")
        assert str(path) in str(caught.value) and "test_labels" in str(caught.value)
    else:
        found = npz.open_split(path, "test").labels
        assert found.dtype == np.int64
        assert found.tolist() == expected


def test_cifar_gives_what_its_batches_hold(published: Publisher) -> None:
    """Images are upright RGB, row by row, in the order of the batches."""
    decoded = fetch(split_of("cifar100", "test"))
    data = np.random.default_rng(0).integers(0, 256, (1000, 3072), np.uint8)
    expected = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels(decoded), expected)
    assert decoded.labels.tolist() == [label for label in range(100) for _ in range(10)]
    assert decoded.label_names is not None
    assert decoded.label_names[:2] == ["apple", "aquarium_fish"]


@pytest.mark.parametrize(("name", "size"), [("cifar10", None), ("oxford-iiit-pet", 16)])
def test_validation_is_a_tenth_of_each_class(
    published: Publisher, name: str, size: int | None
) -> None:
    """Training and validation images are the official training images, each once."""
    train, validation = (fetch(split_of(name, split, size)) for split in ("train", "validation"))
    items = official.image_sets()[name].splits["train"].items
    assert set(train.ids) | set(validation.ids) == {str(index) for index in range(items)}
    assert len(train.ids) + len(validation.ids) == items
    classes = len(official.image_sets()[name].labels)
    each = items // classes
    held = max(1, round(each / 10))
    assert np.bincount(validation.labels).tolist() == [held] * classes
    assert np.bincount(train.labels).tolist() == [each - held] * classes
    assert len(pixels(train)) == len(train.ids)
    assert validation.ids[:5] == HELD_OUT[name]


# Golden values: no version of any library moves an image to the other split.
HELD_OUT = {
    "cifar10": ["0", "20", "32", "43", "52"],
    "oxford-iiit-pet": ["2", "4", "9", "15", "17"],
}


def test_official_validation_split_is_used(published: Publisher) -> None:
    """Flowers has one, so nothing is held out of its training images."""
    for split in ("train", "validation", "test"):
        decoded = fetch(split_of("flowers102", split, 16))
        assert decoded.labels.tolist() == list(range(102))
        assert decoded.ids == [str(index) for index in range(102)]
        middle = pixels(decoded)[:, 8, 8].astype(int)
        assert abs(middle[:, 0] - np.arange(102) * 6 % 256).max() < 4  # JPEG


def test_images_are_resized_and_cropped_at_the_centre() -> None:
    """The shorter side becomes the size; what the longer one has too much goes at both ends."""
    image = np.zeros((96, 192, 3), np.uint8)
    image[:, 48:144] = np.indices((96, 96)).sum(axis=0)[:, :, None] % 2 * 255
    found = torchvision._read([(Image.fromarray(image), 0)], 0, 32, "")
    assert found.shape == (32, 32, 3)
    # Antialiased: the grid of single pixels becomes grey, and nothing black is left beside it.
    assert abs(found[1:-1, 1:-1].astype(int) - 127).max() < 8


def test_images_that_differ_in_size_need_one(published: Publisher) -> None:
    """Without a size the card is refused, in one line that says what to write."""
    with pytest.raises(InputError) as caught:
        fetch(split_of("oxford-iiit-pet", "test"))
    assert str(caught.value) == (
        "torchvision: oxford-iiit-pet: size: required, because its images differ in size; "
        "set one, such as 224"
    )


@pytest.mark.parametrize(
    ("name", "below"),
    [("cifar10", ""), ("stl10", "torchvision"), ("oxford-iiit-pet", ""), ("flowers102", "")],
)
def test_unpacked_data_set_is_read_where_it_is(
    published: Publisher, tmp_path: Path, name: str, below: str
) -> None:
    """What torchvision has unpacked in the data folder is used; then no file is needed."""
    source = split_of(name, "test", 32)
    expected = pixels(fetch(source))
    folder = tmp_path / "data"
    [unpacked] = [path for path in (tmp_path / "cache" / "extracted").iterdir() if path.is_dir()]
    shutil.copytree(unpacked, folder / below)
    shutil.rmtree(tmp_path / "cache")
    assert torchvision.files(source, folder) == []
    np.testing.assert_array_equal(pixels(torchvision.decode(source, folder)), expected)
    identity = torchvision.identify(source, folder)
    assert identity == torchvision.identify(source, folder) != torchvision.identify(source, None)
    some = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    some.write_bytes(some.read_bytes() + b" ")
    assert torchvision.identify(source, folder) != identity


def test_foreign_pickle_is_never_loaded(published: Publisher, tmp_path: Path) -> None:
    """A batch of CIFAR with another checksum is refused before it is unpickled."""
    fetch(split_of("cifar10", "test"))
    [unpacked] = (tmp_path / "cache" / "extracted").glob("*/cifar-10-batches-py")
    harm = tmp_path / "harm"
    for name in ("test_batch", "batches.meta"):
        original = (unpacked / name).read_bytes()
        (unpacked / name).write_bytes(pickle.dumps(Harmful(harm)))
        with pytest.raises(InputError, match="the cifar10 data set is damaged or incomplete"):
            torchvision.decode(split_of("cifar10", "test"), None)
        (unpacked / name).write_bytes(original)
        assert not harm.exists()
    pickle.loads(pickle.dumps(Harmful(harm)))
    assert harm.exists()  # it would have done its harm


def test_damaged_images_are_refused(published: Publisher, tmp_path: Path) -> None:
    """An image that is gone or damaged, and a list that is shorter: one line each."""
    source = split_of("oxford-iiit-pet", "test", 16)
    fetch(source)
    [unpacked] = (tmp_path / "cache" / "extracted").glob("*/oxford-iiit-pet")
    image = unpacked / "images" / "Abyssinian_4.jpg"
    content = image.read_bytes()
    for damage in (content[:200], b"text"):
        image.write_bytes(damage)
        with pytest.raises(InputError, match="oxford-iiit-pet: image 0 cannot be read: "):
            pixels(torchvision.decode(source, None))
    image.write_bytes(content)
    table = unpacked / "annotations" / "trainval.txt"
    lines = table.read_text().splitlines()
    for wrong, message in (
        (lines[:-1], "147 images; the official oxford-iiit-pet has 148 for train$"),
        (
            [line.replace("Beagle", "Corgi") for line in lines],
            "class 'Corgi'; the official oxford-iiit-pet has 'Beagle' there$",
        ),
        (["Abyssinian_1"], "damaged or incomplete; delete it"),
    ):
        table.write_text("\n".join(wrong))
        with pytest.raises(InputError, match=message):
            torchvision.decode(split_of("oxford-iiit-pet", "train", 16), None)
