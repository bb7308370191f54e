"""Image files in class folders: what is read, and in what geometry."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core.errors import InputError
from medtransfer.data.formats.images import fit_square
from medtransfer.data.sources import folder
from tests.helpers.folders import RAMP, make_source, read_all, refuse, save, write_table

BATCH_BYTES = 16 * 2**20


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
    assert "pass --data" in refuse(None)  # type: ignore[arg-type]
    assert "is not a folder" in refuse(tmp_path / "absent")
    root = tmp_path / "set"
    save(root / "train" / "a" / "1.png")
    assert "no such folder" in refuse(tmp_path, folder="sett")
    assert "did you mean 'set'?" in refuse(tmp_path, folder="sett")
    assert "did you mean 'train'?" in refuse(tmp_path, split="trian")
    assert "no folder '..'" in refuse(tmp_path, split="..")
    (root / "empty" / "a").mkdir(parents=True)
    assert "no images; put them in empty/<class>/<file>" in refuse(tmp_path, split="empty")
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
    assert "'two\\nlines.png': name with unprintable characters" in refuse(tmp_path)
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
