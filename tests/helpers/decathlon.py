"""Small volumes in the layout of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.data.sources import decathlon
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import DecathlonSource

TASK = "Task09_Spleen"
SHAPE = (40, 30, 12)  # columns, rows, slices
LPS = np.diag([-1.5, -0.5, 3.0, 1.0])


def source(split: str = "test", **changes: Any) -> DecathlonSource:
    fields = {"decathlon": TASK, "split": split, "size": 32, "window": (0.0, 255.0)} | changes
    return DecathlonSource.parse(fields, origin="test")


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> tuple[NDArray[Any], NDArray[Any]]:
    """Dark noise and a bright box under the mask, on the left side, in front, in slices 2 to 9."""
    image = np.random.default_rng(seed).integers(0, 40, shape).astype(np.int16)
    mask = np.zeros(shape, dtype=np.uint8)
    columns, rows, slices = shape
    box = np.s_[columns // 2 + 4 : columns - 4, 4 : rows // 2, 2 : slices - 2]
    image[box], mask[box] = 250, 1
    return image, mask


def save(path: Path, voxels: NDArray[Any], axes: str = "LPS") -> None:
    """Write voxels (columns, rows, slices) so that the file's axes run to ``axes``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel: Any = pytest.importorskip("nibabel", reason="nibabel reads the volumes")
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(
        orientations.axcodes2ornt("LPS"), orientations.axcodes2ornt(axes)
    )
    nibabel.save(nibabel.Nifti1Image(voxels, LPS).as_reoriented(turn), path)


def list_volumes(root: Path, names: list[str], **changes: Any) -> None:
    entries = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in names
    ]
    content = {"labels": {"0": "background", "1": "spleen"}, "training": entries} | changes
    (root / "dataset.json").write_text(json.dumps(content))


def write_task(data: Path, volumes: int = 5) -> Path:
    root = data / TASK
    names = [f"spleen_{number}" for number in range(volumes)]
    for number, name in enumerate(names):
        image, mask = draw(number)
        save(root / "imagesTr" / f"{name}.nii.gz", image)
        save(root / "labelsTr" / f"{name}.nii.gz", mask)
    list_volumes(root, names)
    return root


def decode(root: Path, wanted: DecathlonSource) -> tuple[Decoded, NDArray[Any], NDArray[Any]]:
    decoded = decathlon.decode(wanted, root.parent)
    assert decoded.masks is not None
    images, masks = np.concatenate(list(decoded.images)), np.concatenate(list(decoded.masks))
    assert images.dtype == masks.dtype == np.uint8
    assert images.shape == masks.shape == decoded.shape
    return decoded, images, masks


def files_of(root: Path, split: str = "test") -> tuple[Path, Path]:
    """Image and mask of the split's first volume."""
    name = (decathlon.decode(source(split), root.parent).patients or [])[0]
    return root / "imagesTr" / f"{name}.nii.gz", root / "labelsTr" / f"{name}.nii.gz"


def one_volume(root: Path, image: NDArray[Any], mask: NDArray[Any], axes: str = "LPS") -> None:
    """Make all volumes of the task this one."""
    first = root / "imagesTr" / "spleen_0.nii.gz", root / "labelsTr" / "spleen_0.nii.gz"
    for path, voxels in zip(first, (image, mask), strict=True):
        save(path, voxels, axes)
        for number in range(1, 5):
            shutil.copy(path, path.with_name(f"spleen_{number}.nii.gz"))
