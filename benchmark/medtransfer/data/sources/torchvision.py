"""Read natural images from official archives with torchvision's classes.

``torchvision.datasets`` is imported only when needed, because it imports torch.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medtransfer.core.documents import digest
from medtransfer.core.errors import InputError, unwritable
from medtransfer.core.files import locked, replacing_folder
from medtransfer.data import official
from medtransfer.data.files.archives import extract
from medtransfer.data.files.cache import cache_folder, check_folder
from medtransfer.data.files.download import find
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import TorchvisionSource

_BATCH_BYTES = 16 * 2**20
# Bound on unpacked bytes: more than twice the largest set, STL-10 with its unlabelled images.
_MOST_UNPACKED = 8 * 2**30
_HELD_OUT = 0.1

# Raised by torchvision, Pillow and scipy for damaged or missing files.
_BROKEN = (RuntimeError, OSError, ValueError, LookupError, EOFError, SyntaxError)


def files(source: TorchvisionSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Name the published files; none where the data folder holds them unpacked.

    Raises:
        InputError: For an unknown data set.
    """
    if _find_unpacked(source, folder) is not None:
        return []
    entry = _find(source)
    return [
        RemoteFile(
            name=file.name,
            url=file.url,
            md5=file.md5,
            licence=entry.licence,
            at_most=file.bytes,
            folder=f"torchvision/{source.torchvision}",
        )
        for file in entry.files
    ]


def identify(source: TorchvisionSource, folder: Path | None, /) -> dict[str, Any]:
    """Return the published MD5s, or names, sizes and times of the user's unpacked files."""
    entry, root = _find(source), _find_unpacked(source, folder)
    if root is None:
        return {"md5": [file.md5 for file in entry.files]}
    paths = [path for need in entry.needs for path in (root / need, *(root / need).rglob("*"))]
    status = [(str(path.resolve()), path.stat()) for path in sorted(paths) if path.is_file()]
    return {"files": digest([[path, s.st_size, s.st_mtime_ns] for path, s in status])}


def decode(source: TorchvisionSource, folder: Path | None, /) -> Decoded:
    """Open one split as a stream.

    With ``size`` the shorter side is resized to it (bicubic, antialiased) and the centre is kept.
    Without an official validation split, a tenth of each training class is held out, the first by
    SHA-256 of name and index; the training split is the rest. An id is the index in the official
    order.

    Raises:
        InputError: For missing or damaged files, and for images of different sizes without
            ``size``.
    """
    entry = _find(source)
    size = source.size or entry.size
    if size is None:
        raise InputError(
            f"torchvision: {source.torchvision}: size: required, because its images differ in "
            "size; set one, such as 224"
        )
    root = _find_unpacked(source, folder) or _unpack(source, folder)
    dataset, labels = _open(source, root)
    chosen = np.arange(len(labels))
    if "validation" not in entry.splits and source.split != "test":
        held = _hold_out(labels, source.torchvision)
        chosen = np.flatnonzero(held if source.split == "validation" else ~held)
    return Decoded(
        origin=f"{source.torchvision} {source.split}",
        shape=(len(chosen), size, size, 3),
        images=_stream(dataset, chosen, size=size, origin=f"{root}: {source.torchvision}"),
        labels=labels[chosen],
        ids=[str(index) for index in chosen],
        label_names=entry.labels,
    )


def _find(source: TorchvisionSource) -> official.ImageSet:
    return official.find_set(official.image_sets(), source.torchvision, kind="torchvision")


def _find_unpacked(source: TorchvisionSource, folder: Path | None) -> Path | None:
    """Find the folder where the user unpacked the archives in torchvision's layout."""
    if folder is None:
        return None
    check_folder(folder)
    needs = _find(source).needs
    places = [folder, folder / "torchvision"]
    return next((p for p in places if all((p / need).exists() for need in needs)), None)


def _unpack(source: TorchvisionSource, folder: Path | None) -> Path:
    """Unpack the archives into the cache in the reader's layout, unless they exist there."""
    entry, remote = _find(source), files(source)
    into = cache_folder() / "extracted" / remote[0].md5
    if into.is_dir():
        return into
    paths = [(file, find(file, folder)) for file in remote]
    try:
        with locked(into):
            if into.is_dir():  # another process was first
                return into
            with replacing_folder(into) as part, TemporaryDirectory(dir=part) as scratch:
                root = part / entry.root
                root.mkdir(parents=True, exist_ok=True)
                for file, path in paths:
                    if path is None:
                        raise InputError(f"{file.name}: not found; `bench data fetch` downloads it")
                    if path.suffix not in (".gz", ".tgz"):
                        shutil.copyfile(path, root / file.name)
                        continue
                    unpacked = Path(scratch) / file.md5
                    extract(path, unpacked, at_most=_MOST_UNPACKED)
                    for member in unpacked.iterdir():
                        member.rename(root / member.name)
    except OSError as error:
        raise unwritable(f"{into.parent}:", error) from None
    return into


def _open(source: TorchvisionSource, root: Path) -> tuple[Any, NDArray[np.int64]]:
    """Open an official split with torchvision's reader, and get its labels.

    The batches of CIFAR are pickles. The reader verifies the published MD5 of each before
    unpickling, so only the authors' bytes are unpickled.
    """
    from torchvision import datasets

    entry = _find(source)
    part = entry.splits.get(source.split) or entry.splits["train"]
    try:
        dataset = getattr(datasets, entry.reader)(root, **part.arguments, download=False)
        # Readers keep their labels under different names.
        names = ("targets", "labels", "_labels")
        labels = next(getattr(dataset, name) for name in names if hasattr(dataset, name))
    except _BROKEN:
        raise InputError(
            f"{root}: the {source.torchvision} data set is damaged or incomplete; delete it to "
            "unpack it again"
        ) from None
    if len(labels) != part.items:
        raise InputError(
            f"{root}: {len(labels)} images; the official {source.torchvision} has {part.items} for "
            f"{source.split}"
        )
    for name, expected in zip_longest(dataset.classes, entry.labels):
        if name != expected:
            raise InputError(
                f"{root}: class '{name}'; the official {source.torchvision} has '{expected}' there"
            )
    return dataset, np.asarray(labels, dtype=np.int64)


def _hold_out(labels: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    """Mark a tenth of each class, rounded, at least one."""
    keys = [hashlib.sha256(f"{name}/{index}".encode()).hexdigest() for index in range(len(labels))]
    order = np.argsort(np.array(keys), kind="stable")
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        items = order[labels[order] == label]
        held[items[: max(1, round(_HELD_OUT * len(items)))]] = True
    return held


def _stream(
    dataset: Any, chosen: NDArray[np.int64], *, size: int, origin: str
) -> Iterator[NDArray[np.uint8]]:
    """Yield the chosen images in batches of bounded size."""
    batch = max(1, _BATCH_BYTES // (size * size * 3))
    for start in range(0, len(chosen), batch):
        indices = chosen[start : start + batch]
        yield np.stack([_read(dataset, int(index), size, origin) for index in indices])


def _read(dataset: Any, index: int, size: int, origin: str) -> NDArray[np.uint8]:
    try:
        image: Image.Image = dataset[index][0].convert("RGB")
    except _BROKEN as error:
        raise InputError(f"{origin}: image {index} cannot be read: {error}") from None
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)
