"""Image files in folders: what is read, how it is shown, and what is refused in one line."""

from __future__ import annotations

import itertools
import os
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from medtransfer.core.errors import InputError
from medtransfer.data.formats.images import fit_square, read_image, read_mask, read_size
from medtransfer.data.sources import folder
from medtransfer.specs.source import FolderSource

BATCH_BYTES = 16 * 2**20
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


# Class folders


def test_class_folders(tmp_path: Path) -> None:
    """Folder names are the classes, sorted; ids are paths below the split; clutter is no item."""
    for number, name in enumerate(["b/2.png", "b/1.JPG", "a/x.tif", "c/y.png"]):
        save(tmp_path / "set" / "train" / name, np.full((4, 4), 40 * number, np.uint8))
    for name in ("b/.DS_Store", "b/Thumbs.db", ".hidden"):
        (tmp_path / "set" / "train" / name).write_bytes(b"x")
    (tmp_path / "set" / "train" / "__MACOSX").mkdir()
    images, decoded = read_all(tmp_path)
    assert decoded.ids == ["a/x.tif", "b/1.JPG", "b/2.png", "c/y.png"]
    assert decoded.labels.tolist() == [0, 1, 1, 2]
    assert decoded.label_names == ["a", "b", "c"]
    assert decoded.patients is None and decoded.masks is None
    assert images[:, 0, 0].tolist() == [80, 40, 0, 120]


def test_order_of_the_directory_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system lists files in any order; ids, labels, images and identity stay."""
    for name in ("b/1.png", "a/10.png", "a/2.png", "a-1/3.png"):
        save(tmp_path / "set" / "train" / name, np.full((4, 4), len(name) * 9, np.uint8))
    images, first = read_all(tmp_path)
    identity = folder.identify(make_source(), tmp_path)
    listing = Path.iterdir

    def backwards(path: Path) -> Iterator[Path]:
        return reversed(sorted(listing(path)))

    monkeypatch.setattr(Path, "iterdir", backwards)
    again, second = read_all(tmp_path)
    assert first.ids == second.ids == sorted(first.ids)
    assert first.labels.tolist() == second.labels.tolist()
    assert np.array_equal(images, again)
    assert folder.identify(make_source(), tmp_path) == identity


def test_identity_follows_files_and_table(tmp_path: Path) -> None:
    """Identity changes with any file of the split, mask or CSV, not with those of other splits."""
    table = write_table(
        tmp_path, "file,split,mask\na.png,train,am.png\nb.png,train,bm.png\nc.png,test,cm.png\n"
    )
    source = make_source(table="table.csv")
    seen = [folder.identify(source, tmp_path)]
    os.utime(table.parent / "c.png", ns=(1, 1))
    assert folder.identify(source, tmp_path) == seen[0]
    for name in ("a.png", "bm.png"):
        os.utime(table.parent / name, ns=(1, 1))
        seen.append(folder.identify(source, tmp_path))
    (table.parent / "a.png").write_bytes((table.parent / "a.png").read_bytes() + b"0")
    os.utime(table.parent / "a.png", ns=(1, 1))
    seen.append(folder.identify(source, tmp_path))
    table.write_text(table.read_text() + "d.png,test,dm.png\n")
    seen.append(folder.identify(source, tmp_path))
    assert all(one != other for one, other in itertools.combinations(seen, 2))
    assert folder.files(source) == []


def test_class_folder_refusals(tmp_path: Path) -> None:
    """What stands in the way of reading every image under its class is named."""
    assert "Pass --data" in refuse(None)  # type: ignore[arg-type]
    assert "is not a folder" in refuse(tmp_path / "absent")
    root = tmp_path / "set"
    save(root / "train" / "a" / "1.png")
    assert "no such folder" in refuse(tmp_path, folder="sett")
    assert "did you mean 'set'?" in refuse(tmp_path, folder="sett")
    assert "did you mean 'train'?" in refuse(tmp_path, split="trian")
    assert "no folder '..'" in refuse(tmp_path, split="..")
    (root / "empty" / "a").mkdir(parents=True)
    assert "no images; empty/<class>/<file> is read" in refuse(tmp_path, split="empty")
    stray = save(root / "train" / "stray.png")
    assert f"{stray}: not in a class folder" in refuse(tmp_path)
    stray.unlink()
    (notes := root / "train" / "a" / "notes.txt").write_text("x")
    assert f"{notes}: not an image; one of .bmp, .dcm" in refuse(tmp_path)
    notes.unlink()
    (inner := root / "train" / "a" / "patient").mkdir()
    assert f"{inner}: a folder" in refuse(tmp_path)
    inner.rmdir()
    save(odd := root / "train" / "a" / "two\nlines.png")
    assert "'two\\nlines.png': rename it" in refuse(tmp_path)
    odd.unlink()
    (root / "train" / "a" / "2.png").touch()
    assert "2.png: the file is empty (0 bytes)" in refuse(tmp_path)


def test_links_stay_inside(tmp_path: Path) -> None:
    """A link to a file outside the folder is refused; one inside, or to the folder, is not."""
    real = tmp_path / "elsewhere"
    secret = save(tmp_path / "secret.png")
    inside = save(real / "train" / "a" / "1.png")
    (tmp_path / "set").symlink_to(real)
    (link := inside.parent / "2.png").symlink_to(inside)
    assert len(read_all(tmp_path)[0]) == 2
    link.unlink()
    link.symlink_to(secret)
    assert "2.png: a link that leads out of" in refuse(tmp_path)
    link.unlink()
    link.symlink_to(link)
    assert "2.png: no such file" in refuse(tmp_path)
    link.unlink()
    (tmp_path / "table.csv").write_text("file,split,label\ntrain/a/1.png,train,x\n")
    (real / "table.csv").symlink_to(tmp_path / "table.csv")
    assert "table.csv: a link that leads out of" in refuse(tmp_path, table="table.csv")


# Tables


def test_table_with_one_label(tmp_path: Path) -> None:
    """Rows of the split only, sorted by file; class ids agree across splits; paths in one form."""
    write_table(
        tmp_path,
        "\ufefffile, label ,split,patient\nx\\b.png,normal,train,p1\n\n./a.png, ill ,train,p2\n"
        "c.png,healed,test,p3\n",
        draw=False,
    )
    save(tmp_path / "set" / "x" / "b.png")
    save(tmp_path / "set" / "a.png")
    _, decoded = read_all(tmp_path, table="table.csv")
    assert decoded.ids == ["a.png", "x/b.png"]
    assert decoded.label_names == ["healed", "ill", "normal"]
    assert decoded.labels.tolist() == [1, 2]
    assert decoded.patients == ["p2", "p1"]


def test_table_with_several_labels(tmp_path: Path) -> None:
    """One '|' anywhere makes the table multi-label, and an empty cell then means no label."""
    write_table(
        tmp_path, "file,split,label\na.png,train,\nb.png,train,x\nc.png,test,y | x\nd.png,test,z\n"
    )
    _, decoded = read_all(tmp_path, table="table.csv")
    assert decoded.label_names == ["x", "y", "z"]
    assert decoded.labels.tolist() == [[0, 0, 0], [1, 0, 0]]
    _, decoded = read_all(tmp_path, table="table.csv", split="test")
    assert decoded.labels.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_table_with_columns(tmp_path: Path) -> None:
    """A column for each label holds 1, 0, and -1 or nothing for unknown, as CheXpert's 1.0 does."""
    write_table(
        tmp_path,
        "file,split,oedema,mass,patient\nb.png,train,1,0,p\na.png,train,-1,,p\n"
        "c.png,train,1.0,0.0,q\nd.png,train,-1.0,1,q\n",
    )
    _, decoded = read_all(tmp_path, table="table.csv")
    assert decoded.ids == ["a.png", "b.png", "c.png", "d.png"]
    assert decoded.label_names == ["oedema", "mass"]
    assert decoded.labels.tolist() == [[-1, -1], [1, 0], [1, 0], [-1, 1]]
    assert decoded.patients == ["p", "p", "q", "q"]


def test_table_with_masks(tmp_path: Path) -> None:
    """Masks come in the order of the images, in their geometry, with class ids untouched."""
    write_table(tmp_path, "file,split,mask\nb.png,train,mb.png\na.png,train,ma.png\n")
    ids = np.zeros((20, 40), np.uint8)
    ids[5:15, 18:30] = 2
    for name, shown in (("b", ids), ("a", np.fliplr(ids))):
        save(tmp_path / "set" / f"{name}.png", shown * 100)
        save(tmp_path / "set" / f"m{name}.png", shown)
    for fit in ("crop", "pad", "squash"):
        images, decoded = read_all(tmp_path, table="table.csv", size=20, fit=fit)
        masks = np.concatenate(list(decoded.masks))
        assert decoded.labels.shape == (2, 0) and decoded.label_names is None
        assert masks.shape == (2, 20, 20) and masks.dtype == np.uint8
        assert set(np.unique(masks)) == {0, 2}
        bright = images > 100
        assert bright.any() and (bright != (masks == 2)).mean() < 0.03


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not a CSV in UTF-8"),
        ("file,split,label\na.png,train,x,y\n", "not a CSV in UTF-8"),
        ("label,split\nx,train\n", "column 'file' is missing; found: label, split"),
        ("file,label\na.png,x\n", "column 'split' is missing"),
        ("file,split\na.png,train\n", "a column for each label is expected; found: none"),
        ("file,split,label,mask\na.png,train,x,m.png\n", "found: label, mask"),
        ("file,split,label,patients\na.png,train,x,1\n", "found: label, patients"),
        ("file,split,label,label\na.png,train,x,x\n", "'label' occurs twice"),
        ("file,split,,x\na.png,train,1,1\n", "'' occurs twice or has no name"),
        ("file,split,label\n", "split: no row has 'train'"),
        ("file,split,label\na.png,test,x\nb.png,val,x\n", "no row has 'train'; known: test, val"),
        ("file,split,label\na.png,train,x\nb.png,,x\n", "row 3: split: empty"),
        ("file,split,label\na.png,train,x\n\nb.png,train,\n", "row 4: label: a name is missing"),
        ("file,split,label\na.png,train,x||y\n", "row 2: label: a name is missing"),
        ("file,split,x,y\na.png,train,1,0\nb.png,test,1,2\n", "row 3: y: '2'; 1, 0, or -1"),
        ("file,split,label\n,train,x\n", "row 2: file: ''; a path relative"),
        ("file,split,label\n/a.png,train,x\n", "row 2: file: '/a.png'; a path relative"),
        ("file,split,label\nC:\\a.png,train,x\n", "row 2: file: 'C:\\a.png'; a path relative"),
        ("file,split,label\nx/../../a.png,train,x\n", "row 2: file: 'x/../../a.png'; a path"),
        ("file,split,mask\na.png,train,../m.png\n", "row 2: mask: '../m.png'; a path relative"),
        ("file,split,mask\na.png,train,\n", "row 2: mask: ''; a path relative"),
        ("file,split,label\na.png,train,x\n./a.png,train,y\n", "row 3: file: 'a.png' is listed in"),
        ("file,split,label\na.png,train,x\na.png,test,x\n", "listed in row 2 already"),
        ("file,split,label,patient\na.png,train,x,\n", "row 2: patient: empty"),
        (
            "file,split,label,patient\na.png,val,x,7\nb.png,train,x,8\nc.png,train,x,7\n",
            "patient: '7' is in the splits train and val",
        ),
        ('file,split,label\n"a\nb.png",train,x\n', "row 2: 'a\\nb.png' cannot be printed"),
    ],
)
def test_table_refusals(tmp_path: Path, text: str, expected: str) -> None:
    """Each refusal names the CSV, the row as a spreadsheet counts it, and the column."""
    table = write_table(tmp_path, text, draw=False)
    message = refuse(tmp_path, table="table.csv")
    assert message.startswith(f"{table}: ")
    assert expected in message


def test_table_file_refusals(tmp_path: Path) -> None:
    """Missing files are counted and the first is named; other splits' files may be missing."""
    assert "did you mean" not in refuse(make(tmp_path / "set").parent, table="table.csv")
    rows = "file,split,label\na.png,train,x\nb.png,train,x\nc.png,train,x\nd.png,test,x\n"
    table = write_table(tmp_path, rows, draw=False)
    assert "did you mean 'table.csv'?" in refuse(tmp_path, table="tabel.csv")
    save(tmp_path / "set" / "a.png")
    message = refuse(tmp_path, table="table.csv")
    assert message == f"{table}: row 3: file: 'b.png': no such file (and 1 more)"
    for name in "bc":
        save(tmp_path / "set" / f"{name}.png")
    assert read_all(tmp_path, table="table.csv")[1].ids == ["a.png", "b.png", "c.png"]
    table.write_text(f"file,split,label\n{'x' * 300}.png,train,x\n")
    assert "row 2: file:" in refuse(tmp_path, table="table.csv")
    (tmp_path / "set" / "n.txt").write_text("x")
    table.write_text("file,split,label\nn.txt,train,x\n")
    assert "row 2: file: 'n.txt': not an image" in refuse(tmp_path, table="table.csv")
    table.write_bytes("file,split,label\na.png,train,\xe4\n".encode("latin-1"))
    assert "not a CSV in UTF-8" in refuse(tmp_path, table="table.csv")


def make(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_mask_of_another_size(tmp_path: Path) -> None:
    """A mask has the size of its image as it is shown, after any rotation by EXIF."""
    write_table(tmp_path, "file,split,mask\na.png,train,m.png\n")
    save(tmp_path / "set" / "m.png", np.zeros((5, 4), np.uint8))
    message = refuse(tmp_path, table="table.csv")
    assert "m.png: a mask of 4 x 5 pixels; its image a.png has 4 x 4" in message
    exif = Image.Exif()
    exif[274] = 6
    save(tmp_path / "set" / "a.png", np.zeros((4, 5), np.uint8), exif=exif)
    assert read_all(tmp_path, table="table.csv")[0].shape == (1, 16, 16)


# Masks


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
    assert "a mask is a PNG" in refuse_mask(write_dicom(tmp_path / "m.dcm", RAMP))
    assert "damaged" in refuse_mask(png_claiming(tmp_path / "t.png", 200, 200))
    assert "13000 x 10 pixels; at most" in refuse_mask(png_claiming(tmp_path / "w.png", 13000, 10))


# Image files


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
        assert "have no range of their own" in refuse_image(path)
        assert grey(path, window=(-50, 50)).tolist() == [[0, 128, 255]]
    path = save(tmp_path / "nan.tif", np.array([[0, np.nan]], np.float32))
    assert "not finite" in refuse_image(path, window=(0, 1))
    assert "black and white are both 1" in refuse_image(path, window=(1, 1))
    assert "window: meant for more than 8 bits" in refuse_image(
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


# DICOM


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
    assert "window: a colour image has none" in refuse_image(path, window=(0, 1))
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


# Geometry and streams


def triangle_weights(length: int, size: int, start: float, extent: float) -> NDArray[np.float64]:
    """Weights of antialiased linear interpolation, (size, length); each row sums to one."""
    scale = extent / size
    centers = start + (np.arange(size) + 0.5) * scale
    places = np.arange(length) + 0.5
    weights = (1 - np.abs(places[None] - centers[:, None]) / max(scale, 1)).clip(0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (33, 33), (7, 9)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_geometry(shape: tuple[int, int], fit: Literal["crop", "pad", "squash"]) -> None:
    """Each fit agrees with linear antialiased interpolation written out in numpy."""
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    size, spans = 16, [(0.0, float(length)) for length in shape]
    inner = (size, size)
    if fit == "crop":
        side = min(shape)
        spans = [((length - side) / 2, float(side)) for length in shape]
    elif fit == "pad":
        inner = tuple(round(size * length / max(shape)) for length in shape)  # type: ignore[assignment]
    rows, columns = (
        triangle_weights(length, count, *span)
        for length, count, span in zip(shape, inner, spans, strict=True)
    )
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    expected = np.zeros((size, size))
    expected[top : top + inner[0], left : left + inner[1]] = rows @ pixels @ columns.T
    image = Image.fromarray(pixels)
    assert np.abs(fit_square(image, size=size, fit=fit) - expected).max() <= 1.5
    rgb = fit_square(image.convert("RGB"), size=size, fit=fit)
    assert np.array_equal(rgb[..., 1], fit_square(image, size=size, fit=fit))


def test_stream_is_bounded_and_lazy(tmp_path: Path) -> None:
    """Batches are of bounded size, made when asked for, and memory does not grow with N."""
    for number in range(90):
        save(tmp_path / "set" / "train" / "a" / f"{number:02}.png", RAMP + np.uint8(number))
    (tmp_path / "set" / "train" / "a" / "99.png").write_bytes(b"damaged")
    source = make_source(size=512, channels=3)
    decoded = folder.decode(source, tmp_path)
    assert decoded.shape == (91, 512, 512, 3)
    tracemalloc.start()
    seen = []
    with pytest.raises(InputError, match=r"99\.png"):
        for batch in decoded.images:
            assert batch.nbytes <= BATCH_BYTES
            seen += batch[:, 0, 0, 0].tolist()
            del batch
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == list(range(len(seen))) and len(seen) > 60
    assert peak < 3 * BATCH_BYTES
