"""List the files of one split of a folder, from class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError, reason, suggest
from medtransfer.data.formats.images import SUFFIXES

# Left behind by file managers and archives, besides names that start with a dot.
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Listing:
    """The items of one split, in the order of their ids.

    Attributes:
        origin: Name in error messages.
        ids: Paths of the images as the split names them, with "/" on every system.
        images: Files of the N images.
        labels: As in ``Decoded``.
        label_names: As in ``Decoded``.
        patients: As in ``Decoded``.
        masks: Files of the N masks.
    """

    origin: str
    ids: list[str]
    images: list[Path]
    labels: NDArray[np.int64]
    label_names: list[str] | None = None
    patients: list[str] | None = None
    masks: list[Path] | None = None


def list_class_folders(root: Path, split: str) -> Listing:
    """List the images of ``<root>/<split>/<class>/*``; the folders' sorted names are the classes.

    Hidden files and those of file managers are skipped. Any other file must be an image.

    Args:
        root: The folder, without links in its path.
        split: Name of the split's folder.

    Raises:
        InputError: For a missing split, no image at all, images outside the class folders,
            folders inside, and files that are no images or lie outside ``root``.
    """
    if split not in (splits := subfolders(root)):
        raise InputError(f"{root}: split: no folder '{split}'{suggest(split, splits)}")
    folder = root / split
    classes = _entries(folder)
    for path in classes:
        if not path.is_dir():
            raise InputError(f"{path}: not in a class folder; move it to {folder.name}/<class>/")
    items: list[tuple[str, Path, int]] = []
    for label, name in enumerate(path.name for path in classes):
        for path in _entries(folder / name):
            if path.is_dir():
                raise InputError(f"{path}: a folder; a class folder holds images only")
            if problem := check_file(path, root=root):
                raise InputError(f"{path}: {problem}")
            items.append((f"{name}/{path.name}", path, label))
    if not items:
        raise InputError(f"{folder}: no images; put them in {folder.name}/<class>/<file>")
    items.sort()
    ids, images, labels = zip(*items, strict=True)
    return Listing(
        origin=str(folder),
        ids=list(ids),
        images=list(images),
        labels=np.array(labels, np.int64),
        label_names=[path.name for path in classes],
    )


def check_file(path: Path, *, root: Path) -> str | None:
    """Return the problem with an image file, if any, without reading it."""
    try:
        if not path.is_file():
            return "no such file"
        if not path.resolve().is_relative_to(root):
            return f"a link that leads out of {root}; replace it with the file itself"
        if path.stat().st_size == 0:
            return "the file is empty (0 bytes)"
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    if path.suffix.lower() not in SUFFIXES:
        return f"not an image; one of {', '.join(sorted(SUFFIXES))} is expected"
    return None


def subfolders(folder: Path) -> list[str]:
    """List the names of the visible folders in ``folder``, sorted."""
    return [path.name for path in _entries(folder) if path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    """List the visible entries of a folder, sorted by name."""
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {reason(error)}") from None
    visible = [p for p in paths if not p.name.startswith(".") and p.name.lower() not in _CLUTTER]
    for path in visible:
        if not path.name.isprintable():
            raise InputError(
                f"{folder}: {path.name!a}: name with unprintable characters; rename it"
            )
    return visible
