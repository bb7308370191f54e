"""Image files, tables and DICOM files in small folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from medtransfer.core.errors import InputError
from medtransfer.data.formats.images import read_image
from medtransfer.data.sources import folder
from medtransfer.specs.source import FolderSource

RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16


def make_source(**fields: Any) -> FolderSource:
    return FolderSource.parse(
        {"folder": "set", "split": "train", "size": 16, "channels": 1} | fields, origin="source"
    )


def save(path: Path, pixels: NDArray[Any] = RAMP, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_table(root: Path, text: str, *, draw: bool = True) -> Path:
    """Write a CSV and an image for each path ending in .png or .tif that it names."""
    path = root / "set" / "table.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    for cell in text.replace("\n", ",").split(",") if draw else []:
        if cell.endswith((".png", ".tif")):
            save(path.parent / cell)
    return path


def write_dicom(path: Path, pixels: NDArray[Any] | bytes, **fields: Any) -> Path:
    """Write a DICOM file; ``syntax`` and any attribute may be given, ``None`` leaves one out."""
    syntax = fields.pop("syntax", ExplicitVRLittleEndian)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    array = pixels if isinstance(pixels, np.ndarray) else np.zeros((4, 4), np.uint8)
    bits = array.dtype.itemsize * 8
    defaults: dict[str, Any] = {
        "Rows": array.shape[0],
        "Columns": array.shape[1],
        "SamplesPerPixel": 3 if array.ndim == 3 else 1,
        "PlanarConfiguration": 0 if array.ndim == 3 else None,
        "PhotometricInterpretation": "RGB" if array.ndim == 3 else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(array.dtype.kind == "i"),
        "PixelData": pixels.tobytes() if isinstance(pixels, np.ndarray) else pixels,
    }
    for name, value in (defaults | fields).items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    dataset.save_as(path)
    return path


def read_all(root: Path, **fields: Any) -> tuple[NDArray[np.uint8], Any]:
    """Decode a split whole; what is identified is also decoded."""
    source = make_source(**fields)
    folder.identify(source, root)
    decoded = folder.decode(source, root)
    images = np.concatenate(list(decoded.images))
    assert images.shape == decoded.shape
    assert images.dtype == np.uint8
    return images, decoded


def one_line(caught: pytest.ExceptionInfo[InputError]) -> str:
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def refuse(root: Path, **fields: Any) -> str:
    """The line with which a split is refused, wherever that happens."""
    source = make_source(**fields)
    with pytest.raises(InputError) as caught:
        decoded = folder.decode(source, root)
        list(decoded.images)
        list(decoded.masks or [])
    return one_line(caught)


def refuse_image(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path, **({"channels": 1} | options))
    assert str(path) in one_line(caught)
    return str(caught.value)


def grey(path: Path, window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    return np.asarray(read_image(path, channels=1, window=window))


def colour(path: Path) -> NDArray[np.uint8]:
    return np.asarray(read_image(path, channels=3))
