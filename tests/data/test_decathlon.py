"""The Decathlon: its official table, splits by patient, and slices."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.core.errors import InputError
from medtransfer.data.sources import decathlon
from tests.helpers.decathlon import (
    LPS,
    TASK,
    decode,
    draw,
    list_volumes,
    one_volume,
    save,
    source,
    write_task,
)

nibabel: Any = pytest.importorskip("nibabel", reason="nibabel reads the volumes")


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
