"""Read one DICOM image: its size, and its values with the window to show them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError

SUFFIXES = {".dcm", ".dicom"}

_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}


class Values(NamedTuple):
    """Pixel values before windowing.

    Attributes:
        pixels: (H, W), in the unit of the file (CT: Hounsfield units) or of its look-up table.
        black: The value shown as black; above ``white`` where low values are bright.
        white: The value shown as white.
    """

    pixels: NDArray[Any]
    black: float
    white: float


def read_size(path: Path) -> tuple[int, int]:
    """Read width and height in pixels, and refuse files that cannot be decoded.

    Raises:
        InputError: For a file that is not DICOM, several frames, unusual colours, or a
            compression without an installed decoder.
    """
    pydicom = _import_pydicom(path)
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID
    except pydicom.errors.InvalidDicomError:
        raise InputError(f"{path}: not a DICOM file (the prefix DICM is missing)") from None
    _check_syntax(path, syntax, pydicom)
    header = pydicom.dcmread(path, stop_before_pixels=True)
    for name in ("Rows", "Columns", "PhotometricInterpretation"):
        if name not in header:
            raise InputError(f"{path}: holds no image: {name} is missing")
    if (frames := int(header.get("NumberOfFrames") or 1)) != 1:
        raise InputError(f"{path}: holds {frames} frames; one image per file is expected")
    colours = header.PhotometricInterpretation
    if colours not in _GREY | _COLOUR or (colours in _COLOUR and header.BitsStored != 8):
        raise InputError(
            f"{path}: {colours} with {header.BitsStored} bits; grey or 8-bit RGB is expected"
        )
    return int(header.Columns), int(header.Rows)


def read_values(path: Path, *, window: tuple[float, float] | None) -> Values | NDArray[np.uint8]:
    """Decode the pixels of a file that ``read_size`` accepted.

    Grey values pass the modality transformation (DICOM PS3.3 C.11.1). Black and white then come
    from ``window``, else from the file's VOI look-up table or its first window (C.11.2), else
    from the whole range of the bits stored. MONOCHROME1 swaps them.

    Returns:
        The values of a grey image; of a colour image uint8 of shape (H, W, 3).

    Raises:
        InputError: Where there is no pixel data, or a window is given for a colour image.
    """
    pydicom = _import_pydicom(path)
    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise InputError(f"{path}: holds no pixel data")
    pixels = pydicom.pixels.pixel_array(dataset)
    if dataset.PhotometricInterpretation in _COLOUR:
        if window is not None:
            raise InputError(f"{path}: window: not available for colour images; leave it out")
        return np.asarray(pixels, np.uint8)
    values = _show(pixels, dataset, window=window, processing=pydicom.pixels)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return Values(values.pixels, black=values.white, white=values.black)
    return values


def _import_pydicom(path: Path) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise InputError(
            f"{path}: DICOM files need pydicom: pip install 'medtransfer[dicom]'"
        ) from None
    return pydicom


def _check_syntax(path: Path, syntax: Any, pydicom: Any) -> None:
    # Deflated files are inflated whole, without bound on the size, before the header is readable.
    try:
        decoder = None if syntax.is_deflated else pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None:
        raise InputError(f"{path}: stored as {syntax.name}; save it uncompressed")
    if not decoder.is_available:
        needed = " or ".join(decoder.missing_dependencies)
        raise InputError(f"{path}: compressed as {syntax.name}; install a decoder: {needed}")


def _show(
    pixels: NDArray[Any],
    dataset: Any,
    *,
    window: tuple[float, float] | None,
    processing: Any,
) -> Values:
    values = processing.apply_modality_lut(pixels, dataset)
    if window is not None:
        return Values(values, *window)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        entries, first, bits = table.LUTDescriptor
        # pydicom indexes the table with integers of the table's width, which overflow at 8 bits.
        table.LUTDescriptor = [entries, first, 16]
        return Values(processing.apply_voi(values, dataset), 0, 2**bits - 1)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        ends = processing.apply_windowing(np.array([-np.inf, np.inf]), dataset)
        return Values(processing.apply_windowing(values, dataset), *ends)
    bits = dataset.BitsStored
    low = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    ends = np.array([low, low + 2**bits - 1])
    return Values(values, *sorted(processing.apply_modality_lut(ends, dataset)))
