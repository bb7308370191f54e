"""Slices of the Medical Segmentation Decathlon's volumes (Antonelli et al., Nat. Commun. 13, 2022).

Only the labelled volumes are used. They are ordered by the SHA-256 of ``task/volume``; the first
60 % are the training split, the next 20 % the validation split, the rest the test split. No split
shares a volume with another, and they are the same on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from medtransfer.core.errors import InputError, reason
from medtransfer.data import official
from medtransfer.data.files.archives import extract
from medtransfer.data.files.cache import cache_folder, check_folder
from medtransfer.data.files.download import obtain
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.formats.images import fit_square
from medtransfer.data.formats.nifti import Volume, open_volume
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.base import Spec, explain
from medtransfer.specs.source import DecathlonSource, Inside

# Ends of each split in fifths of the volumes.
_FIFTHS = {"train": (0, 3), "validation": (3, 4), "test": (4, 5)}


class OfficialTask(Spec):
    """One task as published."""

    url: str = Field(description="Address of the archive.")
    md5: official.MD5 = Field(description="Its checksum.")
    modality: list[str] = Field(description="Names of the channels, in order.")
    labels: list[str] = Field(description="Names of the masks' ids, in order.")
    volumes: int = Field(description="Number of labelled volumes.")
    licence: str = Field(description="Licence of the data.")


@cache
def official_tasks() -> dict[str, OfficialTask]:
    """The ten tasks by their official names."""
    return official.read_table(OfficialTask, "decathlon")


def _nifti(value: str) -> str:
    if not value.endswith((".nii", ".nii.gz")) or not value.isprintable():
        raise ValueError("the path of a .nii.gz file is expected")
    return value


class _Entry(BaseModel):
    image: Annotated[Inside, AfterValidator(_nifti)]
    label: Annotated[Inside, AfterValidator(_nifti)]


class _Listing(BaseModel):
    """Fields that are read of a ``dataset.json``."""

    training: list[_Entry]
    labels: dict[str, str]


@dataclass(frozen=True)
class _Pair:
    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class _Patient:
    name: str
    image: Volume
    mask: Volume
    slices: NDArray[np.int64]


def files(source: DecathlonSource, folder: Path | None = None, /) -> list[RemoteFile]:
    """Name the task's archive; none where the data folder holds it unpacked.

    Raises:
        InputError: For a task that does not exist.
    """
    task = _find_task(source)
    if _find_unpacked(source, folder) is not None:
        return []
    return [
        RemoteFile(
            name=f"{source.decathlon}.tar",
            url=task.url,
            md5=task.md5,
            licence=task.licence,
            folder="decathlon",
        )
    ]


def identify(source: DecathlonSource, folder: Path | None, /) -> dict[str, Any]:
    """Return the archive's published MD5, or paths, sizes and times of an unpacked task's files."""
    task, root = _find_task(source), _find_unpacked(source, folder)
    if root is None:
        return {"md5": task.md5}
    pairs, _ = _list_pairs(source, root)
    paths = [root / "dataset.json", *(path for pair in pairs for path in (pair.image, pair.mask))]
    status = [(path, _require(path).stat()) for path in paths]
    return {"files": [[str(path.resolve()), s.st_size, s.st_mtime_ns] for path, s in status]}


def decode(source: DecathlonSource, folder: Path | None, /) -> Decoded:
    """Open one split as a stream of axial slices, one volume in memory at a time.

    A slice is shown as radiologists see it: the patient's right is on the left, the front on
    top. Its values are mapped from the window (by default from the 0.5th to the 99.5th percentile
    of the volume's non-zero voxels, because zero is the padding of cropped MRI) onto 0 to 255. It
    is resized and padded with black to a square: images linearly with antialiasing, masks to the
    nearest voxel.

    An id is ``volume/slice``, slices counted from the feet; each volume counts as a patient.
    Volumes whose mask is empty are left out.

    Raises:
        InputError: Naming the file, the field and the expected value.
    """
    root = _find_unpacked(source, folder) or _unpack(source, folder)
    pairs, names = _list_pairs(source, root)
    patients = []
    for pair in pairs:
        image, mask = _open_pair(pair, source.channel)
        slices = _choose_slices(_read_mask(mask, len(names)), most=source.slices)
        if slices.size:
            patients.append(_Patient(pair.name, image, mask, slices))
    if not patients:
        raise InputError(f"{root}: every mask of the {source.split} split is empty")
    items = [(patient.name, index) for patient in patients for index in patient.slices]
    return Decoded(
        origin=source.decathlon,
        shape=(len(items), source.size, source.size),
        images=(_show_slices(patient, source) for patient in patients),
        labels=np.empty((len(items), 0), dtype=np.int64),
        ids=[f"{name}/{index}" for name, index in items],
        label_names=names,
        patients=[name for name, _ in items],
        masks=(_show_masks(patient, len(names), source.size) for patient in patients),
    )


def _find_task(source: DecathlonSource) -> OfficialTask:
    return official.find_set(official_tasks(), source.decathlon, kind="decathlon")


def _find_unpacked(source: DecathlonSource, folder: Path | None) -> Path | None:
    """Find the task's folder where the user has unpacked it."""
    if folder is None:
        return None
    check_folder(folder)
    places = [folder / source.decathlon, folder / "decathlon" / source.decathlon]
    return next((place for place in places if place.is_dir()), None)


def _unpack(source: DecathlonSource, folder: Path | None) -> Path:
    """Unpack the archive into the cache, under its checksum, unless it exists already."""
    [file] = files(source)
    into = cache_folder() / "extracted" / file.md5
    if not into.is_dir():
        archive = obtain(file, folder)
        # A tar is not compressed, so its size bounds that of its members.
        extract(archive, into, at_most=archive.stat().st_size)
    return into / source.decathlon


def _require(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: not found; unpack the whole archive")
    return path


def _list_pairs(source: DecathlonSource, root: Path) -> tuple[list[_Pair], list[str]]:
    """List the split's volumes and the names of the masks' ids, from ``dataset.json``."""
    path = _require(root / "dataset.json")
    try:
        listing = _Listing.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path}: {explain(_Listing, error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    ids = [str(number) for number in range(len(listing.labels))]
    if not 2 <= len(ids) <= 256 or set(ids) != set(listing.labels):
        raise InputError(f'{path}: labels: names for the ids "0", "1" and so on are expected')
    pairs = {}
    for entry in listing.training:
        name = Path(entry.image).name.removesuffix(".gz").removesuffix(".nii")
        if name in pairs:
            raise InputError(f"{path}: training: {name} is listed twice")
        pairs[name] = _Pair(name, root / entry.image, root / entry.label)
    order = sorted(pairs, key=lambda name: _hash(f"{source.decathlon}/{name}"))
    first, last = (fifths * len(order) // 5 for fifths in _FIFTHS[source.split])
    if first == last:
        raise InputError(
            f"{path}: training: {len(order)} volumes leave none for the {source.split} split; at "
            "least 3 are expected"
        )
    return [pairs[name] for name in order[first:last]], [listing.labels[key] for key in ids]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _open_pair(pair: _Pair, channel: int) -> tuple[Volume, Volume]:
    """Read the headers of an image and its mask, and refuse different shapes."""
    image, mask = open_volume(pair.image), open_volume(pair.mask)
    if mask.shape != image.shape or mask.channels != 1:
        raise InputError(
            f"{mask.path}: {mask.channels} x {mask.shape} voxels; 1 x {image.shape} as its image "
            "are expected (channels, columns, rows, slices)"
        )
    if channel >= image.channels:
        raise InputError(
            f"{image.path}: channel: {channel}; the volume has 0 to {image.channels - 1}"
        )
    return image, mask


def _read_mask(mask: Volume, count: int) -> NDArray[np.uint8]:
    raw = mask.read()
    with np.errstate(invalid="ignore"):
        ids = raw.astype(np.uint8)
    wrong = (ids != raw) | (ids >= count)
    if wrong.any():
        raise InputError(
            f"{mask.path}: mask value {raw[wrong][0]:g}; dataset.json names the whole numbers 0 to "
            f"{count - 1}"
        )
    return ids


def _choose_slices(mask: NDArray[np.uint8], *, most: int) -> NDArray[np.int64]:
    """Choose up to ``most`` labelled slices, the middles of equal parts."""
    labelled = np.flatnonzero(mask.any(axis=(0, 1)))
    count = min(most, len(labelled))
    return labelled[(2 * np.arange(count) + 1) * len(labelled) // (2 * max(count, 1))]


def _show_slices(patient: _Patient, source: DecathlonSource) -> NDArray[np.uint8]:
    voxels = patient.image.read(source.channel)
    if not np.isfinite(voxels).all():
        raise InputError(f"{patient.image.path}: holds NaN or infinite voxels")
    window = source.window or _default_window(voxels)
    pictures = [_to_grey(voxels[:, :, index], window) for index in patient.slices]
    return _fit(pictures, source.size, Image.Resampling.BILINEAR)


def _show_masks(patient: _Patient, count: int, size: int) -> NDArray[np.uint8]:
    mask = _read_mask(patient.mask, count)
    pictures = [Image.fromarray(mask[:, :, index].T) for index in patient.slices]
    return _fit(pictures, size, Image.Resampling.NEAREST)


def _default_window(voxels: NDArray[Any]) -> tuple[float, float]:
    inside = voxels[voxels != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = map(float, np.percentile(inside, (0.5, 99.5)))
    return (low, high) if low < high else (min(low, 0.0), max(high, 0.0))


def _to_grey(voxels: NDArray[Any], window: tuple[float, float]) -> Image.Image:
    black, white = window
    shares = (voxels.T.astype(np.float64) - black) / (white - black)
    return Image.fromarray(np.rint(255 * shares.clip(0, 1)).astype(np.uint8))


def _fit(pictures: list[Image.Image], size: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """Pad to squares and resize, (n, size, size), the same way for images and masks."""
    fitted = [fit_square(image, size=size, fit="pad", resample=resample) for image in pictures]
    return np.stack(fitted)
