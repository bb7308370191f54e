"""Synthetic files in the official layouts, on a local server."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from medtransfer.data import official
from medtransfer.data.files.download import obtain
from medtransfer.data.sources import medmnist, medsegbench, torchvision
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import MedmnistSource, MedsegbenchSource, Source, TorchvisionSource
from medtransfer.specs.task import load_tasks

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


def mask_arrays(values: int, dtype: str = "uint8", size: int = 128) -> dict[str, Any]:
    rng = np.random.default_rng(values)
    arrays: dict[str, Any] = {}
    for split in SPLITS:
        arrays[f"{split}_images"] = rng.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        arrays[f"{split}_label"] = rng.integers(0, values, (3, size, size)).astype(dtype)
    return arrays


def split_of(name: str, split: str, size: int | None = None) -> TorchvisionSource:
    return TorchvisionSource.model_validate({"torchvision": name, "split": split, "size": size})
