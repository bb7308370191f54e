"""Tables of image files: labels, columns and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.folders import read_all, refuse, save, write_table


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
