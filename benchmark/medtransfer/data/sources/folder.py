"""Image files in a folder: class folders, or a CSV with one row per image."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core.documents import digest
from medtransfer.core.errors import InputError, suggest
from medtransfer.data.files.cache import check_folder
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.formats.images import fit_square, read_image, read_mask, read_size
from medtransfer.data.sources.decoded import Decoded
from medtransfer.data.sources.folder_listing import Listing, list_class_folders, subfolders
from medtransfer.data.sources.folder_table import list_table
from medtransfer.specs.source import FolderSource

_BATCH_BYTES = 16 * 2**20
_Item = TypeVar("_Item")


def files(source: FolderSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Return no files: a user's folder is never downloaded."""
    return []


def identify(source: FolderSource, folder: Path | None, /) -> dict[str, Any]:
    """Return the folder, a digest of the files' paths, sizes and times, and one of the CSV.

    Raises:
        InputError: As ``decode``, for problems visible without opening an image.
    """
    root, table = _find(source, folder)
    listing = _list(source, root, table)
    stated = []
    for path in [*listing.images, *(listing.masks or [])]:
        status = path.stat()
        stated.append([path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns])
    return {
        "folder": str(root),
        "files": digest(stated),
        "table": table and hashlib.sha256(table.read_bytes()).hexdigest(),
    }


def decode(source: FolderSource, folder: Path | None, /) -> Decoded:
    """List the split, and open its images and masks as streams, sorted by id.

    Raises:
        InputError: Naming the file or the row, the field, and the expected value. Damaged images
            and masks of another size than their image are reported while streaming.
    """
    root, table = _find(source, folder)
    listing = _list(source, root, table)
    square = (source.size, source.size)
    shape = square if source.channels == 1 else (*square, 3)

    def load_image(path: Path) -> NDArray[np.uint8]:
        image = read_image(path, channels=source.channels, window=source.window)
        return fit_square(image, size=source.size, fit=source.fit)

    def load_mask(paths: tuple[Path, Path]) -> NDArray[np.uint8]:
        mask, image = read_mask(paths[0]), read_size(paths[1])
        if mask.size != image:
            raise InputError(
                f"{paths[0]}: a mask of {mask.size[0]} x {mask.size[1]} pixels; its image "
                f"{paths[1].name} has {image[0]} x {image[1]}"
            )
        nearest = Image.Resampling.NEAREST
        return fit_square(mask, size=source.size, fit=source.fit, resample=nearest)

    masks = None
    if listing.masks is not None:
        pairs = list(zip(listing.masks, listing.images, strict=True))
        masks = _stream(pairs, load_mask, shape=square)
    return Decoded(
        origin=listing.origin,
        shape=(len(listing.ids), *shape),
        images=_stream(listing.images, load_image, shape=shape),
        labels=listing.labels,
        ids=listing.ids,
        label_names=listing.label_names,
        patients=listing.patients,
        masks=masks,
    )


def _find(source: FolderSource, folder: Path | None) -> tuple[Path, Path | None]:
    """Find the folder, with links in its path resolved, and its CSV if the source names one."""
    if folder is None:
        raise InputError(
            f"{source.folder}: no data folder given; pass --data DIR or set BENCH_DATA"
        )
    check_folder(folder)
    root = folder / source.folder
    if not root.is_dir():
        hint = suggest(source.folder, subfolders(folder))
        raise InputError(f"{source.folder}: no such folder in {folder}{hint}")
    root = root.resolve()
    if source.table is None:
        return root, None
    table = root / source.table
    if not table.is_file():
        hint = suggest(source.table, [path.name for path in root.glob("*.csv")])
        raise InputError(f"{source.table}: not found in {root}{hint}")
    if not table.resolve().is_relative_to(root):
        raise InputError(
            f"{table}: a link that leads out of {root}; replace it with the file itself"
        )
    return root, table


def _list(source: FolderSource, root: Path, table: Path | None) -> Listing:
    if table is None:
        return list_class_folders(root, source.split)
    return list_table(root, table, source.split)


def _stream(
    items: list[_Item], load: Callable[[_Item], NDArray[np.uint8]], *, shape: tuple[int, ...]
) -> Iterator[NDArray[np.uint8]]:
    """Load the items in batches of bounded size, so that a split may exceed the memory."""
    count = max(1, _BATCH_BYTES // math.prod(shape))
    for start in range(0, len(items), count):
        yield np.stack([load(item) for item in items[start : start + count]])
