"""Volumes and settings of the Decathlon that are refused in one line."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.core.errors import InputError
from medtransfer.data.sources import decathlon
from tests.helpers.decathlon import (
    LPS,
    SHAPE,
    TASK,
    decode,
    draw,
    files_of,
    list_volumes,
    save,
    source,
)

nibabel: Any = pytest.importorskip("nibabel", reason="nibabel reads the volumes")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def claim(path: Path, *dimensions: int) -> None:
    """Write a header that claims a shape, with next to no voxels after it."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(dimensions)
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    nibabel.openers.Opener(path, "wb").write(header.binaryblock + bytes(404))


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def voxels(path: Path, value: float, dtype: Any = np.float32) -> None:
    """Put one voxel of another value into a volume."""
    array = np.asanyarray(nibabel.load(path).dataobj).astype(dtype)
    array[3, 3, 3] = value
    save(path, array)


def stretch(path: Path, slope: float) -> None:
    """Have a header of NIfTI-2, whose numbers are large, multiply the voxels."""
    image = nibabel.Nifti2Image(draw(0)[0], LPS)
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)


REFUSED: dict[str, tuple[Callable[[Path, Path, Path], object], str]] = {
    "no dataset.json": (lambda r, i, m: (r / "dataset.json").unlink(), "dataset.json: not found"),
    "not JSON": (lambda r, i, m: (r / "dataset.json").write_text("{"), "dataset.json: .*JSON"),
    "nested JSON": (
        lambda r, i, m: (r / "dataset.json").write_text("[" * 100_000),
        "dataset.json: .*JSON",
    ),
    "no list": (
        lambda r, i, m: (r / "dataset.json").write_text('{"labels": {}}'),
        "dataset.json: training: required",
    ),
    "climbing path": (
        lambda r, i, m: change(r / "dataset.json", "./labelsTr/", "../../labelsTr/"),
        "dataset.json: training.0.label: a relative path inside",
    ),
    "absolute path": (
        lambda r, i, m: change(r / "dataset.json", "./imagesTr/", "/imagesTr/"),
        "dataset.json: training.0.image: a relative path inside",
    ),
    "other file type": (
        lambda r, i, m: change(r / "dataset.json", ".nii.gz", ".npz"),
        "dataset.json: training.0.image: the path of a .nii.gz file",
    ),
    "line break in a path": (
        lambda r, i, m: change(r / "dataset.json", "spleen_0", "spleen\\n_0"),
        "dataset.json: training.0.image: the path of a .nii.gz file",
    ),
    "ids with a gap": (
        lambda r, i, m: change(r / "dataset.json", '"1": "spleen"', '"2": "spleen"'),
        'dataset.json: labels: names for the ids "0", "1"',
    ),
    "listed twice": (
        lambda r, i, m: list_volumes(r, ["a", "b", "c", "b"]),
        "dataset.json: training: b is listed twice",
    ),
    "too few": (
        lambda r, i, m: list_volumes(r, []),
        "dataset.json: training: 0 volumes leave none for the test split",
    ),
    "image missing": (lambda r, i, m: i.unlink(), "imagesTr/.*: not found"),
    "mask missing": (lambda r, i, m: m.unlink(), "labelsTr/.*: not found"),
    "image truncated": (lambda r, i, m: truncate(i), "imagesTr/.*: not a complete NIfTI volume"),
    "mask truncated": (lambda r, i, m: truncate(m), "labelsTr/.*: not a complete NIfTI volume"),
    "image empty": (lambda r, i, m: i.write_bytes(b""), "imagesTr/.*: not a complete NIfTI"),
    "not NIfTI": (lambda r, i, m: m.write_text("no"), "labelsTr/.*: not a complete NIfTI volume"),
    "absurd shape": (
        lambda r, i, m: claim(i, 30000, 30000, 30000),
        "imagesTr/.*: claims .30000, 30000, 30000. voxels; at most 536,870,912",
    ),
    "more claimed than there": (
        lambda r, i, m: (claim(i, 512, 512, 12), claim(m, 512, 512, 12)),
        "labelsTr/.*: not a complete NIfTI volume",
    ),
    "nothing in it": (
        lambda r, i, m: claim(i, 8, 0, 8),
        "imagesTr/.*: int16 of shape .8, 0, 8.; a 3-D or 4-D volume",
    ),
    "2-D": (
        lambda r, i, m: nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8), np.uint8), LPS), i),
        "imagesTr/.*: uint8 of shape .8, 8.; a 3-D or 4-D volume",
    ),
    "complex": (
        lambda r, i, m: save(i, np.zeros(SHAPE, np.complex64)),
        "imagesTr/.*: complex64 of shape",
    ),
    "mask of another shape": (
        lambda r, i, m: save(m, np.zeros((40, 30, 11), np.uint8)),
        "labelsTr/.*: 1 x .40, 30, 11. voxels; 1 x .40, 30, 12. as its image",
    ),
    "mask with channels": (
        lambda r, i, m: save(m, np.zeros((*SHAPE, 2), np.uint8)),
        "labelsTr/.*: 2 x .40, 30, 12. voxels; 1 x",
    ),
    "half a class": (lambda r, i, m: voxels(m, 0.5), "labelsTr/.*: mask value 0.5; .* 0 to 1$"),
    "unnamed class": (lambda r, i, m: voxels(m, 2, np.uint8), "labelsTr/.*: mask value 2;"),
    "negative class": (lambda r, i, m: voxels(m, -1), "labelsTr/.*: mask value -1;"),
    "class beyond a byte": (lambda r, i, m: voxels(m, 257), "labelsTr/.*: mask value 257;"),
    "NaN class": (lambda r, i, m: voxels(m, np.nan), "labelsTr/.*: mask value nan;"),
    "NaN voxel": (lambda r, i, m: voxels(i, np.nan), "imagesTr/.*: holds NaN or infinite voxels"),
    "scaled beyond all numbers": (
        lambda r, i, m: stretch(i, 1e308),
        "imagesTr/.*: holds NaN or infinite voxels",
    ),
    "infinite voxel": (lambda r, i, m: voxels(i, np.inf), "imagesTr/.*: holds NaN or infinite"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, root: Path) -> None:
    """Wrong input is one line that names the file and what would be right."""
    spoil, message = REFUSED[what]
    spoil(root, *files_of(root))
    with pytest.raises(InputError, match=message) as error:
        decode(root, source())
    assert "\n" not in str(error.value) and str(root) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": 1}, "imagesTr/.*: channel: 1; the volume has 0 to 0"),
        (
            {"window": (40.0, 40.0)},
            "window: the value shown as black, then a larger one shown as white",
        ),
    ],
)
def test_refused_settings(changes: dict[str, Any], message: str, root: Path) -> None:
    """Settings that no picture can be made with are refused before any is."""
    with pytest.raises(InputError, match=message):
        decathlon.decode(source(**changes), root.parent)


def test_only_empty_masks(root: Path) -> None:
    """A split without any label is refused."""
    for mask in (root / "labelsTr").iterdir():
        save(mask, np.zeros(SHAPE, dtype=np.uint8))
    with pytest.raises(InputError, match="every mask of the test split is empty"):
        decathlon.decode(source(), root.parent)


def test_data_folder_that_is_none(root: Path) -> None:
    """--data must be a folder."""
    for call in (decathlon.identify, decathlon.decode):
        with pytest.raises(InputError, match=r"--data: .* is not a folder"):
            call(source(), root / "dataset.json")


def spoiled_headers(content: bytes) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for _ in range(100):
        spoiled = bytearray(content)
        for place in rng.integers(0, 352, 3):
            spoiled[place] = rng.integers(256)
        yield bytes(spoiled)


def test_damaged_headers(root: Path) -> None:
    """Whatever bytes a header has, the volume is read or refused in one line."""
    image, _ = files_of(root)
    content = nibabel.load(image).to_bytes()
    plain = image.with_suffix("")
    change(root / "dataset.json", f"./imagesTr/{image.name}", f"./imagesTr/{plain.name}")
    refused = 0
    for spoiled in spoiled_headers(content):
        plain.write_bytes(spoiled)
        try:
            decode(root, source(slices=1))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 10 < refused < 100


def test_mended_headers_are_silent(root: Path) -> None:
    """What nibabel mends in a header is not printed."""
    for image in (root / "imagesTr").iterdir():
        content = bytearray(nibabel.load(image).to_bytes())
        content[254:256] = np.int16(99).tobytes()  # sform_code, which is 0 to 5
        image.write_bytes(gzip.compress(bytes(content)))
    code = f"""
from pathlib import Path
from medtransfer.data.sources import decathlon
from medtransfer.specs.source import DecathlonSource
source = DecathlonSource(decathlon="{TASK}", split="test")
print(decathlon.decode(source, Path({str(root.parent)!r})).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(8, 224, 224)\n", "")
