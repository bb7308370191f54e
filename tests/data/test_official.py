"""Official data: the tables of what is published, the loaders, and the cards that use them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import runpy
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from medtransfer.core.errors import InputError
from medtransfer.data import official
from medtransfer.data.files.download import obtain
from medtransfer.data.labels import conform
from medtransfer.data.sources import medmnist, medsegbench, npz, torchvision
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import (
    MedmnistSource,
    MedsegbenchSource,
    Source,
    TorchvisionSource,
)
from medtransfer.specs.task import TaskCard, load_tasks
from tests.conftest import ROOT, Harmful

LOADERS: dict[type[Source], Any] = {
    MedmnistSource: medmnist,
    MedsegbenchSource: medsegbench,
    TorchvisionSource: torchvision,
}
CARDS = {
    name: card
    for name, card in load_tasks().items()
    if card.kind != "segmentation"
    and any(type(source) in LOADERS for source in card.sources.values())
}
SPLITS = {"train": 4, "val": 2, "test": 3}  # synthetic images of each class


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def installed_table(package: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The INFO table of an installed package, without importing it (which takes torch and more)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed: its table cannot be compared")
    monkeypatch.setenv("HOME", str(home))  # where the table's module makes a folder
    table = runpy.run_path(str(Path(spec.origin).with_name("info.py")))["INFO"]
    assert isinstance(table, dict)
    return table


# The tables.


def test_medmnist_table_is_the_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 2-D data set of the package is there, with its names, sizes, address and MD5."""
    info = installed_table("medmnist", tmp_path, monkeypatch)
    sets = official.array_sets("medmnist")
    assert set(sets) == {name for name in info if not name.endswith("3d")}
    for name, entry in sets.items():
        expected = info[name]
        assert entry.labels == [expected["label"][str(i)] for i in range(len(entry.labels))]
        assert len(entry.labels) == len(expected["label"])
        assert entry.multilabel == ("multi-label" in expected["task"])
        assert entry.channels == expected["n_channels"]
        assert entry.items == expected["n_samples"]
        assert entry.licence == expected["license"]
        for size in (28, 64, 128, 224):
            [file] = medmnist.files(MedmnistSource(medmnist=name, split="test", size=size))
            suffix = "" if size == 28 else f"_{size}"
            assert (file.url, file.md5) == (expected[f"url{suffix}"], expected[f"MD5{suffix}"])
            assert file.name == f"{name}{suffix}.npz"


def test_medsegbench_table_is_the_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every data set of the package is there, with its names, sizes, address and MD5."""
    info = installed_table("medsegbench", tmp_path, monkeypatch)
    sets = official.array_sets("medsegbench")
    assert set(sets) == set(info)
    for name, entry in sets.items():
        expected = info[name]
        assert entry.labels == list(expected["pixel_labels"].values())
        assert entry.channels == expected["n_channels_im"]
        assert entry.items == {split: expected["n_samples"][split] for split in SPLITS}
        assert (entry.stored or sum(entry.items.values())) == sum(expected["n_samples"].values())
        for size in (128, 256, 512):
            source = MedsegbenchSource(medsegbench=name, split="test", size=size)
            [file] = medsegbench.files(source)
            # Two of the checksums have a space at their end.
            checksum = expected[f"MD5_{size}"].strip()
            assert (file.url, file.md5) == (expected[f"url_{size}"], checksum)


def test_torchvision_table_is_torchvisions() -> None:
    """Addresses and checksums are those of the classes that read the files."""
    sets = official.image_sets()
    found = {name: [(file.url, file.md5) for file in entry.files] for name, entry in sets.items()}
    flowers = datasets.Flowers102
    assert found == {
        "cifar10": [(datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5)],
        "cifar100": [(datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5)],
        "stl10": [(datasets.STL10.url, datasets.STL10.tgz_md5)],
        "oxford-iiit-pet": list(datasets.OxfordIIITPet._RESOURCES),
        "flowers102": [
            (flowers._download_url_prefix + name, checksum)
            for name, checksum in flowers._file_dict.values()
        ],
    }
    assert sets["flowers102"].labels == flowers.classes
    assert all(file.url.endswith(f"/{file.name}") for s in sets.values() for file in s.files)


def test_bound_of_a_download_is_what_its_arrays_take() -> None:
    """PneumoniaMNIST at 28 pixels: 5,856 images of 784 bytes; the published file has 4.2 MB."""
    source = MedmnistSource(medmnist="pneumoniamnist", split="test", size=28)
    [file] = medmnist.files(source)
    assert file.at_most is not None
    assert 5856 * 784 < file.at_most < 5856 * 784 + 100_000
    [wbc] = medsegbench.files(MedsegbenchSource(medsegbench="wbc", split="test", size=128))
    assert wbc.at_most is not None
    assert wbc.at_most > 1.9 * 400 * 128 * 128 * 4  # nearly all are there once more, by category


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            MedmnistSource(medmnist="pneumonia", split="test"),
            "medmnist: no data set is called 'pneumonia'; did you mean 'pneumoniamnist'?",
        ),
        (
            MedsegbenchSource(medsegbench="drives", split="test"),
            "medsegbench: no data set is called 'drives'; did you mean 'drive'?",
        ),
        (
            TorchvisionSource(torchvision="cifar-10", split="test"),
            "torchvision: no data set is called 'cifar-10'; did you mean 'cifar10'?",
        ),
    ],
)
def test_unknown_data_set_is_refused(source: Source, message: str) -> None:
    """A name that does not exist: one line with the closest that does."""
    loader = LOADERS[type(source)]
    for call in (
        lambda: loader.files(source),
        lambda: loader.identify(source, None),
        lambda: loader.decode(source, None),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


# The cards.


def entry_of(source: Source) -> official.ArraySet | official.ImageSet:
    if isinstance(source, MedmnistSource):
        return official.array_sets("medmnist")[source.medmnist]
    assert isinstance(source, TorchvisionSource)
    return official.image_sets()[source.torchvision]


def official_items(source: Source) -> int | None:
    """The published number of images of a source; None where it is made from other numbers."""
    entry = entry_of(source)
    if source.select is not None:
        return None
    if isinstance(entry, official.ArraySet):
        return entry.items[source.split]  # type: ignore[attr-defined]
    if "validation" not in entry.splits and source.split != "test":  # type: ignore[attr-defined]
        return None
    return entry.splits[source.split].items  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CARDS)
def test_card_agrees_with_the_tables(name: str) -> None:
    """Sizes are the published ones, classes have the official names, and labels exist."""
    card = CARDS[name]
    assert card.lineage
    for split, source in card.sources.items():
        entry, items = entry_of(source), official_items(source)
        assert items is None or card.sizes[split] == items, split
        if source.select is None:
            plain = [
                ["".join(filter(str.isalnum, n.lower())) for n in names]
                for names in (card.classes, entry.labels)
            ]
            assert plain[0] == plain[1], split
        else:
            chosen = [label for labels in source.select.values() for label in labels]
            assert len(set(chosen)) == len(chosen)
            assert set(chosen) <= set(entry.labels), split
    assert card.licence == entry_of(card.train).licence
    if card.kind == "multilabel":
        for split, counts in card.counts.items():
            assert max(counts) < card.sizes[split]


def test_main_suite_covers_the_domains() -> None:
    """One card at least for each of the eight domains, and each is tested under corruption."""
    assert {card.domain for card in CARDS.values()} == {
        "natural",
        "chest-xray",
        "ct",
        "oct",
        "fundus",
        "ultrasound",
        "microscopy",
        "dermoscopy",
    }
    for card in CARDS.values():
        assert any(split.startswith("corrupted/") for split in card.test_splits), card.name


def test_nothing_that_has_a_side_is_flipped() -> None:
    """A flip would swap left and right organs, and move the heart."""
    for card in CARDS.values():
        sided = card.domain == "chest-xray" or any("left" in name for name in card.classes)
        assert card.flip != sided, card.name


def test_cards_are_short() -> None:
    """A card is read at a glance."""
    paths = [path for path in (ROOT / "tasks").rglob("*.yaml") if path.stem in CARDS]
    assert len(paths) == len(CARDS)
    assert median(len(path.read_text().splitlines()) for path in paths) < 30


# Synthetic files in the official layouts, on a server of this machine.


class Publisher:
    """Writes files, serves them, and says in the tables that they are the official ones."""

    def __init__(self, folder: Path, address: str) -> None:
        """Publish into ``folder`` what is found at ``address``."""
        self.folder = folder
        self.address = address
        self.truth: dict[str, dict[str, Any]] = {}  # arrays of each file
        self.arrays: dict[str, dict[str, official.ArraySet]] = {
            "medmnist": dict(official.array_sets("medmnist")),
            "medsegbench": dict(official.array_sets("medsegbench")),
        }
        self.images: dict[str, official.ImageSet] = dict(official.image_sets())
        self.classes: dict[type, dict[str, Any]] = {}  # attributes of torchvision's classes

    def publish_arrays(
        self, publisher: str, name: str, size: int, arrays: Mapping[str, Any]
    ) -> Path:
        """Publish one ``.npz`` file; the numbers of images follow from its arrays."""
        file = f"{name}.npz" if publisher == "medmnist" and size == 28 else f"{name}_{size}.npz"
        np.savez(self.folder / file, **arrays)
        self.truth[file] = dict(arrays)
        entry = self.arrays[publisher][name]
        update = {
            "url": f"{self.address}/{{file}}",
            "md5": {**entry.md5, size: md5((self.folder / file).read_bytes())},
            "items": {split: len(arrays[f"{split}_images"]) for split in SPLITS},
        }
        self.arrays[publisher][name] = entry.model_copy(update=update)
        return self.folder / file

    def publish_images(
        self, name: str, files: Mapping[str, bytes], items: Mapping[str, int]
    ) -> None:
        """Publish the files of a data set that torchvision reads."""
        entry = self.images[name]
        published = []
        for file in entry.files:
            path = f"{name}/{file.name}"
            (self.folder / path).parent.mkdir(exist_ok=True)
            (self.folder / path).write_bytes(files[file.name])
            update = {"url": f"{self.address}/{path}", "md5": md5(files[file.name])}
            published.append(file.model_copy(update=update))
        splits = {
            split: part.model_copy(update={"items": items[split]})
            for split, part in entry.splits.items()
        }
        self.images[name] = entry.model_copy(update={"files": published, "splits": splits})


class Handler(SimpleHTTPRequestHandler):
    """Serves files in silence."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def jpeg(label: int, seed: int) -> bytes:
    """A photograph that is not square, of one colour for each class."""
    width, height = (60, 48) if seed % 2 else (40, 56)
    pixels = np.full((height, width, 3), (label * 6 % 256, 80, 255 - label * 6 % 256), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def official_arrays(entry: official.ArraySet, size: int) -> dict[str, Any]:
    """Arrays of the names, types and shapes that MedMNIST's files have."""
    arrays: dict[str, Any] = {}
    rng = np.random.default_rng(size)
    shape = (size, size) if entry.channels == 1 else (size, size, 3)
    for split, per_class in SPLITS.items():
        labels = np.arange(per_class * len(entry.labels)) % len(entry.labels)
        arrays[f"{split}_images"] = rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
        if entry.multilabel:  # one finding each, and items without any
            table = np.eye(len(entry.labels) + 1, dtype=np.uint8)[:, :-1]
            arrays[f"{split}_labels"] = table[np.arange(len(labels)) % len(table)]
    return arrays


def publish_cifar(publisher: Publisher, name: str) -> None:
    entry = publisher.images[name]
    reader, count = getattr(datasets, entry.reader), len(entry.labels)
    fine = "labels" if name == "cifar10" else "fine_labels"
    members, lists = {}, {}
    for kind, official_list in (("train", reader.train_list), ("test", reader.test_list)):
        lists[f"{kind}_list"] = []
        for number, (batch, _) in enumerate(official_list):
            labels = [label for label in range(count) for _ in range(10)]
            data = np.random.default_rng(number).integers(0, 256, (len(labels), 3072), np.uint8)
            members[batch] = pickle.dumps({"data": data, fine: labels}, protocol=2)
            lists[f"{kind}_list"].append([batch, md5(members[batch])])
    file = reader.meta["filename"]
    members[file] = pickle.dumps({reader.meta["key"]: entry.labels}, protocol=2)
    meta = {**reader.meta, "md5": md5(members[file])}
    publisher.classes[reader] = {**lists, "meta": meta}
    archive = tar({f"{reader.base_folder}/{name}": data for name, data in members.items()})
    items = {kind: 10 * count * len(lists[f"{kind}_list"]) for kind in ("train", "test")}
    publisher.publish_images(name, {entry.files[0].name: archive}, items)


def publish_stl(publisher: Publisher) -> None:
    entry, members = publisher.images["stl10"], {}
    rng = np.random.default_rng(0)
    for kind, count in (("train", 20), ("test", 30)):
        labels = np.arange(count) % 10 + 1
        members[f"{kind}_X.bin"] = rng.integers(0, 256, (count, 3, 96, 96), np.uint8).tobytes()
        members[f"{kind}_y.bin"] = labels.astype(np.uint8).tobytes()
    members["unlabeled_X.bin"] = bytes(3 * 96 * 96)
    members["class_names.txt"] = "\n".join(entry.labels).encode() + b"\n"
    members["fold_indices.txt"] = b"0 1 2\n"
    publisher.classes[datasets.STL10] = {
        kind: [[file, md5(members[file])] for file, _ in getattr(datasets.STL10, kind)]
        for kind in ("train_list", "test_list")
    }
    archive = tar({f"stl10_binary/{name}": data for name, data in members.items()})
    publisher.publish_images("stl10", {"stl10_binary.tar.gz": archive}, {"train": 20, "test": 30})


def publish_pets(publisher: Publisher) -> None:
    entry = publisher.images["oxford-iiit-pet"]
    images, lists = {}, {}
    for kind, numbers in (("trainval", range(4)), ("test", range(4, 5))):
        lines = []
        for label, name in enumerate(entry.labels):
            for number in numbers:
                item = f"{name.replace(' ', '_')}_{number}"
                images[f"images/{item}.jpg"] = jpeg(label, number)
                lines.append(f"{item} {label + 1} 1 1")
        lists[f"annotations/{kind}.txt"] = "\n".join(lines).encode()
    count = len(entry.labels)
    publisher.publish_images(
        "oxford-iiit-pet",
        {"images.tar.gz": tar(images), "annotations.tar.gz": tar(lists)},
        {"train": 4 * count, "test": count},
    )


def publish_flowers(publisher: Publisher) -> None:
    count = len(publisher.images["flowers102"].labels)
    labels = np.arange(3 * count) % count
    images = {f"jpg/image_{i:05d}.jpg": jpeg(label, i) for i, label in enumerate(labels, 1)}
    tables = {"imagelabels.mat": {"labels": labels + 1}}
    # The official test split is the largest one; any order of the images will do.
    order = np.arange(1, 3 * count + 1).reshape(3, count)[::-1]
    tables["setid.mat"] = dict(zip(("trnid", "valid", "tstid"), order, strict=True))
    files = {"102flowers.tgz": tar(images)}
    for name, table in tables.items():
        buffer = io.BytesIO()
        savemat(buffer, table)
        files[name] = buffer.getvalue()
    names = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    publisher.classes[datasets.Flowers102] = {
        "_file_dict": {key: (name, md5(files[name])) for key, name in names.items()}
    }
    items = {"train": count, "validation": count, "test": count}
    publisher.publish_images("flowers102", files, items)


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


def fetch(source: Source, folder: Path | None = None) -> Decoded:
    """Download and decode a source, as the store does it."""
    loader = LOADERS[type(source)]
    for file in loader.files(source):
        obtain(file, folder)
    decoded = loader.decode(source, folder)
    assert isinstance(decoded, Decoded)
    return decoded


def pixels(decoded: Decoded) -> np.ndarray[Any, Any]:
    images = np.concatenate(list(decoded.images))
    assert images.shape == decoded.shape
    assert images.dtype == np.uint8
    return images


# Loading.


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


# Masks and many labels.


def mask_arrays(values: int, dtype: str = "uint8", size: int = 128) -> dict[str, Any]:
    rng = np.random.default_rng(values)
    arrays: dict[str, Any] = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        arrays[f"{split}_label"] = rng.integers(0, values, (3, size, size)).astype(dtype)
    return arrays


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


# torchvision.


def split_of(name: str, split: str, size: int | None = None) -> TorchvisionSource:
    return TorchvisionSource.model_validate({"torchvision": name, "split": split, "size": size})


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
        "torchvision: oxford-iiit-pet: size: its images differ in size; set one, such as 224"
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
        with pytest.raises(InputError, match="the cifar10 data set is damaged or not all there"):
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
        (["Abyssinian_1"], "damaged or not all there; delete it"),
    ):
        table.write_text("\n".join(wrong))
        with pytest.raises(InputError, match=message):
            torchvision.decode(split_of("oxford-iiit-pet", "train", 16), None)
