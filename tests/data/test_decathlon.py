"""The Decathlon's volumes: official table, splits by patient, and what a slice looks like."""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.data.files.cache import cache_folder
from medtransfer.data.sources import decathlon
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.source import DecathlonSource

nibabel: Any = pytest.importorskip("nibabel", reason="nibabel reads the volumes")

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five volumes in the official layout: three to train on, one each for the other splits."""
    return write_task(tmp_path / "data")


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


# The official table


def test_table_is_that_of_monai() -> None:
    """Addresses and checksums are those that MONAI has."""
    spec = importlib.util.find_spec("monai")
    if spec is None or spec.origin is None:
        pytest.skip("MONAI is not installed")
    # Read, not imported: importing MONAI takes seconds.
    tree = ast.parse((Path(spec.origin).parent / "apps" / "datasets.py").read_text())
    [found] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "DecathlonDataset"]
    tables = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in found.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("resource", "md5")
    }
    ours = decathlon.official_tasks()
    assert {name: task.url for name, task in ours.items()} == tables["resource"]
    assert {name: task.md5 for name, task in ours.items()} == tables["md5"]


def test_table_is_complete() -> None:
    """Ten tasks, 1,741 labelled volumes in all, and every mask has a background."""
    tasks = decathlon.official_tasks()
    assert [name[:6] for name in tasks] == [f"Task{number:02}" for number in range(1, 11)]
    assert sum(task.volumes for task in tasks.values()) == 1741
    for task in tasks.values():
        assert task.labels[0] == "background" and len(task.labels) == len(set(task.labels)) > 1
        assert task.modality and task.licence == "CC BY-SA 4.0"


@pytest.mark.parametrize("name", decathlon.official_tasks())
def test_files(name: str) -> None:
    """Each task is one archive, called as its address says."""
    [file] = decathlon.files(source(decathlon=name), None)
    assert file.url.endswith(f"/{file.name}") and file.name == f"{name}.tar"
    assert (file.licence, file.folder) == ("CC BY-SA 4.0", "decathlon")


def test_no_file_where_it_is_unpacked(root: Path) -> None:
    """A task that the user has unpacked is not downloaded."""
    assert decathlon.files(source(), root.parent) == []
    assert len(decathlon.files(source(decathlon="Task06_Lung"), root.parent)) == 1


def test_unknown_task() -> None:
    """A name that is not official is refused everywhere, with the closest one."""
    for call in (decathlon.files, lambda s: decathlon.identify(s, None)):
        with pytest.raises(InputError, match="'Task09_Splen'; did you mean 'Task09_Spleen'"):
            call(source(decathlon="Task09_Splen"))


# Splits


def patients_of(root: Path, split: str) -> list[str]:
    return list(dict.fromkeys(decathlon.decode(source(split), root.parent).patients or []))


def test_splits_are_by_patient(tmp_path: Path) -> None:
    """60, 20 and 20 % of the volumes, in the order of their hashes, whatever they are listed in."""
    root = write_task(tmp_path, volumes=10)
    names = [f"spleen_{number}" for number in range(10)]
    for listed in (names, names[::-1]):
        list_volumes(root, listed)
        order = sorted(names, key=lambda n: hashlib.sha256(f"{TASK}/{n}".encode()).hexdigest())
        found = [patients_of(root, split) for split in ("train", "validation", "test")]
        assert found == [order[:6], order[6:8], order[8:]]


@pytest.mark.parametrize("volumes", [3, 4, 7, 13])
def test_splits_cover_everything(volumes: int, tmp_path: Path) -> None:
    """From 3 volumes on there are three splits that share nothing and leave nothing out."""
    root = write_task(tmp_path, volumes)
    found = [patients_of(root, split) for split in ("train", "validation", "test")]
    assert sorted(itertools.chain(*found)) == sorted(
        f"spleen_{number}" for number in range(volumes)
    )
    for patients, share in zip(found, (0.6, 0.2, 0.2), strict=True):
        assert patients and abs(len(patients) - share * volumes) < 1


def test_same_pictures_every_time(root: Path) -> None:
    """A second reading gives the same."""
    first, images, masks = decode(root, source("train"))
    again, images_again, masks_again = decode(root, source("train"))
    assert (again.ids, again.patients) == (first.ids, first.patients)
    np.testing.assert_array_equal(images_again, images)
    np.testing.assert_array_equal(masks_again, masks)


# Slices


def test_decoded(root: Path) -> None:
    """Labels are in the masks; ids are volume and slice; names come from dataset.json."""
    decoded, _, masks = decode(root, source("train", slices=3))
    assert decoded.labels.shape == (9, 0)
    assert decoded.label_names == ["background", "spleen"]
    places = list(zip(decoded.patients, (3, 6, 8) * 3, strict=True))
    assert decoded.ids == [f"{patient}/{index}" for patient, index in places]
    assert all(mask.any() for mask in masks)


@pytest.mark.parametrize(
    ("labelled", "most", "expected"),
    [
        ([4], 3, [4]),
        ([1, 2, 9], 3, [1, 2, 9]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 1, [5]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 5, [1, 3, 5, 7, 9]),
        ([0, 1, 2, 10, 11], 2, [1, 10]),
    ],
)
def test_slices_are_even(labelled: list[int], most: int, expected: list[int], root: Path) -> None:
    """At most so many slices, spread over those with a label, each once and in order."""
    image, mask = draw(0)
    mask[:] = 0
    mask[20, 10, labelled] = 1
    one_volume(root, image, mask)
    decoded, *_ = decode(root, source(slices=most))
    assert decoded.ids == [f"{decoded.patients[0]}/{index}" for index in expected]


def test_pixels_without_resizing(root: Path) -> None:
    """At its own size a slice is its voxels, padded to a square; rows run to the back."""
    image, mask = draw(5)
    one_volume(root, image, mask)
    decoded, images, masks = decode(root, source(size=40))
    for item, name in enumerate(decoded.ids):
        index = int(name.split("/")[1])
        for pictures, voxels in ((images, image), (masks, mask)):
            np.testing.assert_array_equal(pictures[item, 5:35], voxels[:, :, index].T)
            assert not pictures[item, :5].any() and not pictures[item, 35:].any()


@pytest.mark.parametrize("size", [32, 37, 64, 200])
@pytest.mark.parametrize("shape", [(40, 30, 12), (30, 47, 12), (60, 60, 12)])
def test_mask_stays_on_its_image(size: int, shape: tuple[int, ...], root: Path) -> None:
    """After resizing, up or down, what is bright lies under the mask and nothing else does."""
    one_volume(root, *draw(1, shape))
    _, images, masks = decode(root, source(size=size))
    bright, marked = images > 145, masks == 1
    assert (bright & marked).sum() > 0.85 * (bright | marked).sum()
    # To the nearest voxel each edge is off by half a pixel at most.
    centres = [np.argwhere(area).mean(axis=0) for area in (bright, marked)]
    np.testing.assert_allclose(*centres, atol=0.5)


def test_masks_are_never_blended(root: Path) -> None:
    """No id appears at the border of two others."""
    image, mask = draw(1)
    one_volume(root, image, 2 * mask)
    names = [f"spleen_{number}" for number in range(5)]
    list_volumes(root, names, labels={"0": "background", "1": "liver", "2": "spleen"})
    decoded, _, masks = decode(root, source(size=99))
    assert decoded.label_names == ["background", "liver", "spleen"]
    assert set(np.unique(masks)) == {0, 2}


@pytest.mark.parametrize("axes", ["RAS", "LAS", "RPI", "SAR", "PIL", "ASL"])
def test_orientation(axes: str, root: Path) -> None:
    """However the voxels are stored, the same patient gives the same picture, upright."""
    one_volume(root, *draw(3))
    _, images, masks = decode(root, source())
    one_volume(root, *draw(3), axes=axes)
    _, turned, turned_masks = decode(root, source())
    np.testing.assert_array_equal(turned, images)
    np.testing.assert_array_equal(turned_masks, masks)
    # The box is on the patient's left and in front: right and top of the picture.
    assert masks[0, :16, 16:].any() and masks.sum() == masks[:, :16, 16:].sum()


def test_mask_in_another_orientation(root: Path) -> None:
    """A mask stored another way than its image is turned by its own header."""
    one_volume(root, *draw(3))
    _, _, masks = decode(root, source())
    for path in (root / "labelsTr").iterdir():
        save(path, draw(3)[1], "SAR")
    np.testing.assert_array_equal(decode(root, source())[2], masks)


def test_slices_with_oblique_axes(root: Path) -> None:
    """A tilted scan is turned to the nearest axes."""
    image, mask = draw(3)
    one_volume(root, image, mask)
    _, images, _ = decode(root, source())
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[0.94, -0.34], [0.34, 0.94]]
    for folder, voxels in (("imagesTr", image), ("labelsTr", mask)):
        for path in (root / folder).iterdir():
            nibabel.save(nibabel.Nifti1Image(voxels, tilt @ LPS), path)
    np.testing.assert_array_equal(decode(root, source())[1], images)


# Values


def test_window(root: Path) -> None:
    """The window's ends are black and white, what lies beyond is clipped, between is linear."""
    image, mask = draw(0)
    image[:, :, :] = -1000
    image[0, :, :], image[1, :, :], image[2, :, :], image[3, :, :] = -160, 40, 240, 900
    one_volume(root, image, mask)
    _, images, _ = decode(root, source(size=40, window=(-160, 240)))
    assert images[0, 20, :5].tolist() == [0, 128, 255, 255, 0]


def test_default_window(root: Path) -> None:
    """Without a window the zeros around a head and single bright voxels decide nothing."""
    image, mask = draw(0)
    image[:] = 0
    rng = np.random.default_rng(0)
    image[10:30, 5:25] = rng.integers(1000, 2000, (20, 20, 12))
    image[20, 15, 0] = 30000
    one_volume(root, image, mask)
    _, images, _ = decode(root, source(size=40, window=None))
    low, high = np.percentile(image[image != 0], (0.5, 99.5))
    expected = np.rint(255 * ((image - low) / (high - low)).clip(0, 1))
    np.testing.assert_array_equal(images[0, 5:35], expected[:, :, 2].T)
    assert images[:, 10:30, 10:30].std() > 60


@pytest.mark.parametrize("value", [0, 7, -7])
def test_constant_volume(value: int, root: Path) -> None:
    """A volume of one value is a picture of one value, not a division by zero."""
    image, mask = draw(0)
    image[:] = value
    one_volume(root, image, mask)
    _, images, _ = decode(root, source(size=40, window=None))
    assert np.unique(images[:, 5:35]).tolist() == ([255] if value > 0 else [0])


def test_channel(root: Path) -> None:
    """Of a 4-D volume the chosen channel is read, and turned as a 3-D one is."""
    first, mask = draw(1)
    second, _ = draw(2)
    one_volume(root, second, mask)
    _, images, _ = decode(root, source())
    for axes in ("LPS", "RAS"):
        one_volume(root, np.stack([first, second], axis=3), mask, axes)
        for path in (root / "labelsTr").iterdir():
            save(path, mask)
        np.testing.assert_array_equal(decode(root, source(channel=1))[1], images)
        assert (decode(root, source(channel=0))[1] != images).any()


def test_scaled_and_float_files(root: Path) -> None:
    """Values are those after the header's slope and intercept; a float mask of ids is a mask."""
    image, mask = draw(0)
    one_volume(root, image, mask)
    _, images, masks = decode(root, source())
    for path in (root / "imagesTr").iterdir():
        stored = nibabel.Nifti1Image(image, LPS)
        stored.header.set_slope_inter(0.5, -5)
        nibabel.save(stored, path)
    for path in (root / "labelsTr").iterdir():
        save(path, mask.astype(np.float32))
    _, again, masks_again = decode(root, source(window=(-5, 122.5)))
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(masks_again, masks)


def test_volumes_without_a_label_are_left_out(root: Path) -> None:
    """A volume whose mask is empty gives no slice; the other volumes' splits stay."""
    before = decathlon.decode(source("train"), root.parent).patients or []
    _, mask = files_of(root, "train")
    save(mask, np.zeros(SHAPE, dtype=np.uint8))
    after = decathlon.decode(source("train"), root.parent).patients or []
    assert after == [name for name in before if name != before[0]] != []


def test_one_volume_in_memory(root: Path) -> None:
    """The images of many volumes are never in memory together."""
    shape = (64, 64, 32)
    one_volume(root, *(voxels.astype(np.float64) for voxels in draw(0, shape)))
    decoded = decathlon.decode(source("train", slices=2), root.parent)
    volume = 8 * 64 * 64 * 32
    tracemalloc.start()
    assert sum(len(batch) for batch in decoded.images) == 6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Since Python 3.12 gzip unpacks 128 KB at once, which are the whole of such a volume.
    assert peak < (2.5 if sys.version_info < (3, 12) else 3.5) * volume


# Archives


@pytest.fixture
def archive(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The task as a .tar in the data folder, with the published checksum; nothing unpacked."""
    path = root.parent / f"{TASK}.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(root, arcname=TASK)
    shutil.rmtree(root)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    official = decathlon.official_tasks()
    monkeypatch.setitem(official, TASK, official[TASK].model_copy(update={"md5": md5}))
    monkeypatch.setenv("BENCH_OFFLINE", "1")
    monkeypatch.setenv("BENCH_CACHE", str(root.parents[1] / "cache"))
    return path


def test_archive(archive: Path) -> None:
    """An archive gives what the unpacked folder gives; the data folder is left as it is."""
    folder, identity = archive.parent, decathlon.identify(source(), archive.parent)
    _, images, masks = decode(archive.with_name(TASK), source())
    assert list(folder.iterdir()) == [archive]
    assert decathlon.identify(source(), folder) == identity == decathlon.identify(source(), None)
    _, expected, expected_masks = decode(write_task(folder / "decathlon"), source())
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(masks, expected_masks)


def test_archive_is_unpacked_once(archive: Path) -> None:
    """What the cache holds is used without the archive."""
    first, *_ = decode(archive.with_name(TASK), source())
    archive.unlink()
    again, *_ = decode(archive.with_name(TASK), source())
    assert again.ids == first.ids
    shutil.rmtree(cache_folder() / "extracted")
    with pytest.raises(InputError, match=f"{TASK}.tar"):
        decathlon.decode(source(), archive.parent)


def test_damaged_archive(archive: Path) -> None:
    """An archive with another checksum is refused and nothing is unpacked."""
    archive.write_bytes(archive.read_bytes()[:-512] + b"x" * 512)
    with pytest.raises(InputError, match=f"{TASK}.tar: MD5"):
        decathlon.decode(source(), archive.parent)


def test_identity_of_a_folder(root: Path) -> None:
    """A changed file changes the identity of its split, and of no other."""
    before = {split: decathlon.identify(source(split), root.parent) for split in ("train", "test")}
    image, _ = files_of(root, "test")
    save(image, draw(77)[0])
    assert decathlon.identify(source("train"), root.parent) == before["train"]
    assert decathlon.identify(source("test"), root.parent) != before["test"]
    json.dumps(before)


# What is refused


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
