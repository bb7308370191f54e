"""Formats of image files and masks: what is read, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medtransfer.core.errors import InputError
from medtransfer.data.formats.images import read_mask, read_size
from tests.helpers.folders import RAMP, colour, grey, one_line, refuse_image, save, write_dicom


def write_tiff(path: Path, data: bytes, *, width: int, bits: int, photometric: int) -> Path:
    """Write an uncompressed grey TIFF of one row by hand."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, 1), (279, len(data))]
    start = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", start) + data.ljust(start - 8, b"\0")
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + b"\0" * 4)
    return path


def png_claiming(path: Path, width: int, height: int) -> Path:
    """Write a PNG whose header claims a size that its few bytes do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_mask_formats(tmp_path: Path) -> None:
    """Grey, palette and 1-bit masks in lossless files give the stored ids."""
    ids = np.array([[0, 1], [2, 7]], np.uint8)
    for suffix in ("png", "tif", "bmp"):
        assert np.array_equal(read_mask(save(tmp_path / f"m.{suffix}", ids)), ids)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0] * 128)
    for bits in (4, 8):
        palette.save(tmp_path / "p.png", bits=bits)
        assert np.array_equal(read_mask(tmp_path / "p.png"), ids)
    binary = save(tmp_path / "b.png", ids > 1)
    assert np.array_equal(read_mask(binary), ids > 1)


def test_mask_refusals(tmp_path: Path) -> None:
    """Masks whose ids could be blurred, spread or ambiguous are refused."""

    def refuse_mask(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_mask(path)
        assert str(path) in one_line(caught)
        return str(caught.value)

    colours = save(tmp_path / "rgb.png", np.zeros((4, 4, 3), np.uint8))
    assert "mode RGB (3 channels); one 8-bit channel" in refuse_mask(colours)
    for kind in ("JPEG", "GIF"):
        path = save(tmp_path / "m.png", RAMP, format=kind)
        assert f"{kind} does not keep the class ids" in refuse_mask(path)
    assert "one 8-bit channel" in refuse_mask(save(tmp_path / "d.png", RAMP.astype(np.uint16)))
    spread = write_tiff(tmp_path / "m.tif", b"\x12\x30", width=4, bits=4, photometric=1)
    assert "stored as L;4; save it with 8 bits" in refuse_mask(spread)
    inverse = write_tiff(tmp_path / "i.tif", b"\x01\x02", width=2, bits=8, photometric=0)
    assert "stored as L;I" in refuse_mask(inverse)
    assert "a DICOM mask; save it as PNG" in refuse_mask(write_dicom(tmp_path / "m.dcm", RAMP))
    assert "damaged" in refuse_mask(png_claiming(tmp_path / "t.png", 200, 200))
    assert "13000 x 10 pixels; at most" in refuse_mask(png_claiming(tmp_path / "w.png", 13000, 10))


def test_colours_become_the_channels_asked_for(tmp_path: Path) -> None:
    """Grey, 1-bit, palette and colour give L or RGB; colour becomes grey by ITU-R 601."""
    rgb = np.array([[[200, 100, 50], [0, 0, 255]]], np.uint8)
    luma = (rgb @ np.array([0.299, 0.587, 0.114])).round()
    path = save(tmp_path / "c.png", rgb)
    assert np.array_equal(colour(path), rgb)
    assert np.abs(grey(path) - luma).max() <= 1
    assert np.array_equal(colour(save(tmp_path / "g.bmp")), np.dstack([RAMP] * 3))
    assert np.array_equal(grey(save(tmp_path / "g.tif")), RAMP)
    assert np.array_equal(grey(save(tmp_path / "g.gif")), RAMP)
    assert np.array_equal(grey(save(tmp_path / "b.png", RAMP > 99)), (RAMP > 99) * 255)
    Image.fromarray(rgb).quantize(2).save(tmp_path / "p.png")
    assert np.array_equal(colour(tmp_path / "p.png"), rgb)
    smooth = np.dstack([np.arange(0, 256, 4, dtype=np.uint8)[None].repeat(64, 0)] * 3)
    for quality, name in ((95, "s.jpg"), (95, "s.png")):  # the content tells what it is
        path = save(tmp_path / name, smooth, quality=quality, format="JPEG")
        assert np.abs(colour(path).astype(int) - smooth).max() <= 4


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    """Alpha mixes with black, whether it comes as a channel or in a palette."""
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    expected = rgba[..., :3] * (rgba[..., 3:] / 255)
    assert np.abs(colour(save(tmp_path / "a.png", rgba)) - expected).max() <= 1
    path = tmp_path / "la.png"
    Image.fromarray(rgba).convert("LA").save(path)
    assert np.abs(grey(path) - expected @ [0.299, 0.587, 0.114]).max() <= 1
    palette = Image.fromarray(rgba[..., :3]).quantize(2)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 0]))
    assert not colour(tmp_path / "p.png").any()


def test_exif_orientation(tmp_path: Path) -> None:
    """An image is turned as EXIF says, in JPEG, PNG and TIFF, and its size is told so."""
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255  # top left
    exif = Image.Exif()
    for orientation, corner in ((1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))):
        exif[274] = orientation
        for suffix in ("jpg", "png", "tif"):
            path = save(tmp_path / f"{orientation}.{suffix}", pixels, exif=exif)
            shown = grey(path)
            assert shown.shape == ((32, 16) if orientation > 4 else (16, 32))
            assert read_size(path) == shown.shape[::-1]
            assert shown[corner] > 200
            assert (shown > 128).sum() == 64


def test_sixteen_bits_keep_their_scale(tmp_path: Path) -> None:
    """Deep grey is shown by the range of its bits or by the window, never by its own extremes."""
    deep = np.array([[0, 257, 1000, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"d.{suffix}", deep)
        assert grey(path).tolist() == [[0, 1, 4, 255]]
        assert grey(path, window=(0, 2000)).tolist() == [[0, 33, 128, 255]]
        assert grey(path, window=(2000, 0)).tolist() == [[255, 222, 128, 0]]
        assert np.array_equal(colour(path), np.dstack([grey(path)] * 3))
    dark = save(tmp_path / "dark.png", np.array([[10, 20]], np.uint16))
    assert grey(dark).max() == 0
    twelve = write_tiff(tmp_path / "t.tif", b"\xff\xf8\x00", width=2, bits=12, photometric=1)
    assert grey(twelve).tolist() == [[255, 128]]
    inverse = deep.astype("<u2").tobytes()
    path = write_tiff(tmp_path / "i.tif", inverse, width=4, bits=16, photometric=0)
    assert grey(path).tolist() == [[255, 254, 251, 0]]


def test_values_without_range_need_a_window(tmp_path: Path) -> None:
    """Float and 32-bit TIFF are refused unless a window says what black and white are."""
    for dtype in (np.float32, np.int32):
        path = save(tmp_path / f"{np.dtype(dtype)}.tif", np.array([[-50, 0, 50]], dtype))
        assert "required for signed, 32-bit or float values" in refuse_image(path)
        assert grey(path, window=(-50, 50)).tolist() == [[0, 128, 255]]
    path = save(tmp_path / "nan.tif", np.array([[0, np.nan]], np.float32))
    assert "not finite" in refuse_image(path, window=(0, 1))
    assert "black and white are both 1" in refuse_image(path, window=(1, 1))
    assert "window: only for more than 8 bits" in refuse_image(
        save(tmp_path / "g.png"), window=(0, 9)
    )


def test_image_refusals(tmp_path: Path) -> None:
    """Damaged, animated, ink and oversized images are refused by name, before they are decoded."""
    whole = save(tmp_path / "whole.jpg", np.tile(RAMP, (16, 16))).read_bytes()
    (cut := tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    assert "truncated or damaged" in refuse_image(cut)
    (text := tmp_path / "text.png").write_text("not an image")
    assert "not an image" in refuse_image(text)
    frames = [Image.fromarray(RAMP), Image.fromarray(RAMP.T.copy())]
    for suffix in ("gif", "tif", "png"):
        frames[0].save(tmp_path / f"f.{suffix}", save_all=True, append_images=frames[1:])
        assert "holds 2 frames" in refuse_image(tmp_path / f"f.{suffix}")
    Image.fromarray(RAMP).convert("CMYK").save(tmp_path / "ink.jpg")
    assert "colours of mode CMYK" in refuse_image(tmp_path / "ink.jpg")
    for width, height in ((12001, 1), (11000, 11000)):
        path = png_claiming(tmp_path / "wide.png", width, height)
        assert f"{width} x {height} pixels; at most 12000 a side" in refuse_image(path)
        with pytest.raises(InputError, match="at most"):
            read_size(path)
    bomb = png_claiming(tmp_path / "bomb.png", 100_000, 100_000)
    assert "too many pixels" in refuse_image(bomb)


def test_previews_of_a_phone_are_no_frames(tmp_path: Path) -> None:
    """The first picture of an MPO file is the image."""
    frames = [Image.fromarray(np.full((8, 8), 90, np.uint8)), Image.fromarray(RAMP)]
    path = tmp_path / "phone.jpg"
    frames[0].save(path, format="MPO", save_all=True, append_images=frames[1:])
    assert grey(path).tolist() == [[90] * 8] * 8
