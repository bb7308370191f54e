"""DICOM files: windows, look-up tables, colour, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from medtransfer.data.formats.images import read_size
from tests.helpers.folders import RAMP, colour, grey, refuse_image, save, write_dicom

STORED = np.array([[0, 1, 100, 1000], [1024, 2000, 4000, 4095]], np.uint16)


def expected_window(values: Any, center: float, width: float, function: str) -> Any:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, for an output of 0 to 255."""
    x = np.asarray(values, float)
    if function == "SIGMOID":
        return 255 / (1 + np.exp(-4 * (x - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return (((x - center) / width + 0.5) * 255).clip(0, 255)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_window(tmp_path: Path, function: str, photometric: str) -> None:
    """Values are rescaled, then windowed as the standard says; MONOCHROME1 is then inverted."""
    path = write_dicom(
        tmp_path / "i.dcm",
        STORED,
        BitsStored=12,
        HighBit=11,
        RescaleSlope=2,
        RescaleIntercept=-1024,
        WindowCenter=[500, 0],
        WindowWidth=[3000, 1],
        VOILUTFunction=function,
        PhotometricInterpretation=photometric,
    )
    shown = expected_window(STORED * 2.0 - 1024, 500, 3000, function)
    given = ((STORED * 2.0 - 1024) / 2000 * 255).clip(0, 255)
    for expected, window in ((shown, None), (given, (0.0, 2000.0))):
        if photometric == "MONOCHROME1":
            expected = 255 - expected
        assert np.abs(grey(path, window) - expected).max() <= 0.51
    assert read_size(path) == (4, 2)


def test_dicom_without_window_uses_the_bits_stored(tmp_path: Path) -> None:
    """Twelve stored bits are shown as twelve, signed or not, rescaled or not."""
    twelve = {"BitsStored": 12, "HighBit": 11}
    expected = np.rint(STORED / 4095 * 255)
    path = write_dicom(tmp_path / "u.dcm", STORED, **twelve)
    assert np.array_equal(grey(path), expected)
    signed = (STORED.astype(np.int16) - 2048).astype(np.int16)
    assert np.array_equal(grey(write_dicom(tmp_path / "s.dcm", signed, **twelve)), expected)
    slope = {"RescaleSlope": 3, "RescaleIntercept": -7}
    path = write_dicom(tmp_path / "r.dcm", STORED, **twelve, **slope)
    assert np.array_equal(grey(path), expected)
    eight = write_dicom(tmp_path / "e.dcm", RAMP, WindowCenter=None)
    assert np.array_equal(grey(eight), RAMP)


def test_dicom_look_up_table(tmp_path: Path) -> None:
    """A VOI look-up table goes before the window; its 8-bit entries do not wrap its index."""
    for bits in (8, 12):
        item = pydicom.Dataset()
        curve = np.rint(np.sqrt(np.arange(4096) / 4095) * (2**bits - 1)).astype("<u2")
        item.LUTDescriptor = [4096, 0, bits]
        item.LUTData = curve.tolist()
        item["LUTData"].VR = item["LUTDescriptor"].VR = "US"
        path = write_dicom(
            tmp_path / "l.dcm",
            STORED,
            VOILUTSequence=[item],
            WindowCenter=1,
            WindowWidth=1,
            BitsStored=12,
        )
        expected = np.sqrt(STORED / 4095) * 255
        assert np.abs(grey(path) - expected).max() <= 1
        assert grey(path, window=(0, 4095))[0, 3] == 62


def test_dicom_colour_and_compression(tmp_path: Path) -> None:
    """RGB stays as it is; RLE and baseline JPEG are decoded."""
    rgb = np.dstack([RAMP, RAMP.T, RAMP])
    path = write_dicom(tmp_path / "c.dcm", rgb)
    assert np.array_equal(colour(path), rgb)
    assert "window: not available for colour images" in refuse_image(path, window=(0, 1))
    packed = pydicom.dcmread(write_dicom(tmp_path / "r.dcm", STORED))
    packed.compress(RLELossless)
    packed.save_as(tmp_path / "r.dcm")
    assert np.array_equal(grey(tmp_path / "r.dcm"), np.rint(STORED / 65535 * 255))
    flat = np.full((8, 8), 77, np.uint8)
    stream = encapsulate([save(tmp_path / "x.jpg", flat).read_bytes()])
    fields = {"Rows": 8, "Columns": 8, "syntax": JPEGBaseline8Bit}
    assert np.array_equal(grey(write_dicom(tmp_path / "j.dcm", stream, **fields)), flat)


def test_dicom_refusals(tmp_path: Path) -> None:
    """What is no single, plain, decodable image is refused with the reason."""

    def refuse_dicom(pixels: NDArray[Any] | bytes = RAMP, **fields: Any) -> str:
        return refuse_image(write_dicom(tmp_path / "i.dcm", pixels, **fields))

    assert "holds no pixel data" in refuse_dicom(PixelData=None)
    assert "holds no image: Rows is missing" in refuse_dicom(Rows=None)
    assert "holds 2 frames" in refuse_dicom(np.tile(RAMP, (2, 1)), Rows=4, NumberOfFrames=2)
    assert "20000 x 20000 pixels" in refuse_dicom(Rows=20000, Columns=20000)
    assert "truncated or damaged" in refuse_dicom(Rows=40)
    assert "PALETTE COLOR with 8 bits" in refuse_dicom(PhotometricInterpretation="PALETTE COLOR")
    deep = np.zeros((4, 4, 3), np.uint16)
    assert "RGB with 16 bits; grey or 8-bit RGB" in refuse_dicom(deep)
    assert "Window Width must be" in refuse_dicom(WindowCenter=1, WindowWidth=0)
    assert "Deflated" in refuse_dicom(syntax=DeflatedExplicitVRLittleEndian)
    stream = encapsulate([b"\xff\xd8junk"])
    assert "MPEG2" in refuse_dicom(stream, syntax=MPEG2MPML)
    if not get_decoder(JPEGLosslessSV1).is_available:
        message = refuse_dicom(stream, syntax=JPEGLosslessSV1)
        assert "compressed as JPEG Lossless" in message and "gdcm" in message
    (text := tmp_path / "t.dcm").write_text("not DICOM" * 99)
    assert "not a DICOM file" in refuse_image(text)
    whole = write_dicom(tmp_path / "w.dcm", STORED).read_bytes()
    for end in (140, 200, len(whole) - 4):
        (cut := tmp_path / "cut.dcm").write_bytes(whole[:end])
        refuse_image(cut)


def test_dicom_needs_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pydicom the line says what to install, and other formats are read."""
    path = write_dicom(tmp_path / "i.dcm", RAMP)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'medtransfer[dicom]'" in refuse_image(path)
    assert np.array_equal(grey(save(tmp_path / "i.png")), RAMP)
