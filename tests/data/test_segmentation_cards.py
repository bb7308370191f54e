"""Segmentation cards: the shipped ones with synthetic official files, and wrong masks of users."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from medtransfer.core.errors import InputError
from medtransfer.data import official
from medtransfer.data.files.cache import cache_folder
from medtransfer.data.sources import npz as npz_source
from medtransfer.data.sources.decathlon import official_tasks
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.source import CorruptSource, DecathlonSource, MedsegbenchSource, Source
from medtransfer.specs.task import TaskCard, load_tasks
from tests.conftest import ROOT, Bench, write_card, write_npz
from tests.helpers.server import Published, serve

nibabel: Any = pytest.importorskip("nibabel", reason="nibabel writes the volumes")

CARDS = {
    name: card
    for name, card in load_tasks().items()
    if isinstance(card.train, MedsegbenchSource | DecathlonSource)
}
ITEMS = {"train": 3, "val": 1, "test": 2}  # synthetic images of each split
SHAPE = (40, 30, 6)  # voxels of the synthetic volumes: columns, rows, slices
AIR, FAT, SPLEEN, BONE = -1000, -100, 50, 700  # Hounsfield units

by_card = pytest.mark.parametrize("name", CARDS)


def entry_of(source: Source) -> Any:
    if isinstance(source, MedsegbenchSource):
        return official.array_sets("medsegbench")[source.medsegbench]
    assert isinstance(source, DecathlonSource)
    return official_tasks()[source.decathlon]


# The cards and the tables.


@by_card
def test_sizes_are_the_published_ones(name: str) -> None:
    """Every split has the official size; slices of volumes are in no table, so they have none."""
    card = CARDS[name]
    assert card.sizes == {
        split: entry_of(source).items[source.split]
        for split, source in card.sources.items()
        if isinstance(source, MedsegbenchSource)
    }


@by_card
def test_classes_are_the_published_ones(name: str) -> None:
    """The background comes first; every other official label falls into a class, once."""
    card = CARDS[name]
    assert card.kind == "segmentation" and card.classes[0] == "background"
    for split, source in card.sources.items():
        labels = entry_of(source).labels
        if source.select is None:
            assert labels == card.classes, split
        else:
            assert list(source.select) == card.classes[1:], split
            chosen = [label for names in source.select.values() for label in names]
            assert ["background", *chosen] == labels, split


@by_card
def test_own_splits_are_one_corpus(name: str) -> None:
    """What is learnt, selected and tested in-domain comes from one corpus, each split once."""
    card = CARDS[name]
    own = [card.train, card.validation, card.in_domain]
    assert len({source.corpus for source in own}) == 1
    validation = "val" if isinstance(card.train, MedsegbenchSource) else "validation"
    assert [source.split for source in own] == ["train", validation, "test"]  # type: ignore[attr-defined]
    assert card.licence == entry_of(card.train).licence


@by_card
def test_other_corpora_are_strangers(name: str) -> None:
    """An external test shares no source corpus with the training images, and says its own."""
    card = CARDS[name]
    assert card.lineage
    for split in card.out_of_domain.keys() & card.sources.keys():
        source = card.sources[split]
        assert source.corpus != card.train.corpus
        assert source.lineage and set(source.lineage).isdisjoint(card.lineage), split


@by_card
def test_every_card_is_tested_under_corruption(name: str) -> None:
    """The kinds are those of the card's domain, at the severities of the other cards."""
    corrupted = CARDS[name].out_of_domain["corrupted"]
    assert isinstance(corrupted, CorruptSource)
    assert (corrupted.corrupt, corrupted.severities) == ("in_domain", [1, 3, 5])
    assert corrupted.kinds is None


def test_cards_cover_the_domains() -> None:
    """Chest X-ray, CT, OCT, fundus and endoscopy; vessels and polyps at other hospitals too."""
    domains = {card.domain for card in CARDS.values()}
    assert domains >= {"chest-xray", "ct", "oct", "fundus", "endoscopy"}
    assert CARDS["retinal_vessels"].out_of_domain.keys() >= {"chase-db1"}
    assert CARDS["polyps"].out_of_domain.keys() >= {"polypgen", "bkai-igh"}


def test_nothing_that_has_a_side_is_flipped() -> None:
    """A flip keeps every mask on its image, but moves the heart and the spleen."""
    for name, card in CARDS.items():
        assert card.flip != (card.domain == "chest-xray" or name == "spleen"), name


def test_cards_are_short_and_found_where_their_domain_is() -> None:
    """A card is read at a glance, and its folder is its domain."""
    paths = {path.stem: path for path in (ROOT / "tasks").rglob("*.yaml")}
    for name, card in CARDS.items():
        assert len(paths[name].read_text(encoding="utf-8").splitlines()) <= 30
        assert paths[name].parent.name == card.domain.replace("-", "_")


# Synthetic files in the official layouts, on a server of this machine.


def draw_arrays(entry: official.ArraySet, size: int, seed: int) -> dict[str, NDArray[np.uint8]]:
    """Noise and blocks of all ids; of two classes the foreground has any value, as published."""
    rng = np.random.default_rng(seed)
    values = range(len(entry.labels)) if len(entry.labels) > 2 else (0, 1, 255)
    arrays = {}
    for split, count in ITEMS.items():
        # Grey, also where it is stored in colour.
        images = rng.integers(60, 200, (count, size, size), dtype=np.uint8)
        colour = np.repeat(images[..., None], 3, axis=3) if entry.channels == 3 else images
        blocks = rng.choice(np.array(values, np.uint8), (count, 8, 8))
        arrays[f"{split}_images"] = colour
        arrays[f"{split}_label"] = np.kron(blocks, np.ones((size // 8, size // 8), np.uint8))
    return arrays


def draw_archive(task: str, folder: Path) -> bytes:
    """A task of five volumes: bone, air and fat in stripes, and a spleen on the patient's left."""
    names = [f"volume_{number}" for number in range(5)]
    for number, name in enumerate(names):
        image, mask = np.full(SHAPE, FAT, np.int16), np.zeros(SHAPE, np.uint8)
        image[:4], image[4:8] = BONE, AIR
        box = np.s_[24:36, 4 + number : 20, 1:5]
        image[box], mask[box] = SPLEEN, 1
        for kind, voxels in (("imagesTr", image), ("labelsTr", mask)):
            (folder / task / kind).mkdir(parents=True, exist_ok=True)
            volume = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 5.0, 1.0]))
            nibabel.save(volume, folder / task / kind / f"{name}.nii.gz")
    listing = {
        "labels": dict(enumerate(official_tasks()[task].labels)),
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
    }
    (folder / task / "dataset.json").write_text(json.dumps(listing))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder / task, arcname=task)
    return buffer.getvalue()


Arrays = dict[str, dict[str, NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrays]:
    """All files of the cards, served at the tables' addresses; gives the arrays of each set."""
    sources = [source for card in CARDS.values() for source in card.sources.values()]
    truth: Arrays = {}
    with serve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))

        def publish(name: str, body: bytes) -> dict[str, str]:
            server.files[f"/{name}"] = Published(body)
            return {"url": f"{server.base}/{name}", "md5": hashlib.md5(body).hexdigest()}

        for source in sources:
            if isinstance(source, DecathlonSource):
                task, folder = source.decathlon, tmp_path_factory.mktemp("decathlon")
                update: dict[str, Any] = dict(publish(f"{task}.tar", draw_archive(task, folder)))
                changed = official_tasks()[task].model_copy(update=update)
                patch.setitem(official_tasks(), task, changed)
            elif isinstance(source, MedsegbenchSource) and source.medsegbench not in truth:
                sets, name, size = official.array_sets("medsegbench"), source.medsegbench, 256
                assert source.size == size
                truth[name] = draw_arrays(sets[name], size, seed=len(truth))
                buffer = io.BytesIO()
                np.savez(buffer, **truth[name])  # type: ignore[arg-type]
                update = dict(publish(f"{name}_{size}.npz", buffer.getvalue()))
                update |= {"md5": {size: update["md5"]}, "items": ITEMS}
                patch.setitem(sets, name, sets[name].model_copy(update=update))
        yield truth


def load(name: str) -> TaskData:
    """Open a card; the synthetic files are smaller than its sizes say."""
    return open_task(CARDS[name].model_copy(update={"sizes": {}}), folder=None)


@by_card
def test_every_source_of_a_card_loads(published: Arrays, name: str) -> None:
    """Official files become images and masks of one size with both classes of the card."""
    data = load(name)
    for split, source in data.card.sources.items():
        images, masks = data.splits[split].images, data.splits[split].masks
        assert masks is not None and masks.shape == images.shape[:3]
        assert images.shape[1:3] == (256, 256)
        assert np.unique(masks).tolist() == list(range(len(data.card.classes)))
        if isinstance(source, MedsegbenchSource):
            truth = published[source.medsegbench]
            np.testing.assert_array_equal(images, truth[f"{source.split}_images"])
            np.testing.assert_array_equal(masks, truth[f"{source.split}_label"] != 0)


@by_card
def test_corruptions_keep_the_masks(published: Arrays, name: str) -> None:
    """A corrupted image is another image with the same mask, and a grey one stays grey."""
    data = load(name)
    corrupted = [split for split in data.tests if split.startswith("corrupted/")]
    assert len(corrupted) >= 3 * 7
    before = data.splits["in_domain"]
    grey_modality = data.card.domain in ("chest-xray", "ct", "oct")
    for split in corrupted:
        after = data.splits[split]
        assert before.masks is not None and after.masks is not None
        np.testing.assert_array_equal(after.masks, before.masks)
        assert after.ids == before.ids and after.images.shape == before.images.shape
        if "saturation-down" not in split:  # the synthetic images have no colour to lose
            assert (after.images != before.images).any(), split
        if grey_modality and after.images.ndim == 4:
            assert np.ptp(after.images.astype(int), axis=3).max() <= 2, split


def test_window_shows_soft_tissue(published: Arrays) -> None:
    """Bone is white, air is black, and the spleen is a grey brighter than that of fat."""
    split = load("spleen").splits["in_domain"]
    assert split.masks is not None
    row, column = np.argwhere(split.masks[0] == 1).mean(axis=0).astype(int)
    bone, air, fat = split.images[0, 200, [10, 40, 100]]  # below the spleen, from the left
    assert (bone, air) == (255, 0)
    assert int(fat) == round(255 * (FAT + 160) / 400)
    assert int(split.images[0, row, column]) == round(255 * (SPLEEN + 160) / 400)


# Wrong masks of users, on the real command line.

Mask = NDArray[Any]
CLASSES = ["background", "vessel", "lesion"]
COUNTS = {"train": 12, "val": 4, "test": 4}
# Nothing, a vessel, then all: what is asked of a split holds for its masks together.
MASK = np.arange(256, dtype=np.uint8).reshape(16, 16) % 3
MASKS = {
    split: np.stack([MASK * 0, MASK // 2, *[MASK] * (count - 2)]) for split, count in COUNTS.items()
}
IMAGES = {
    split: np.random.default_rng(count).integers(0, 256, (count, 16, 16), dtype=np.uint8)
    for split, count in COUNTS.items()
}


def write_segmentation_card(folder: Path, changes: dict[str, Any]) -> None:
    path = write_card(folder / "cards", "d", "d.npz", out_of_domain={})
    kind = {"kind": "segmentation", "metric": "dice", "classes": CLASSES}
    path.write_text(json.dumps(yaml.safe_load(path.read_text()) | kind | changes))


def write_task(folder: Path, *, card: dict[str, Any] | None = None, **arrays: object) -> None:
    """A segmentation task ``d`` in ``d.npz``; ``arrays`` replace the right ones, or drop them."""
    right: dict[str, Any] = {"train_labels": None, "val_labels": None, "test_labels": None}
    for split in COUNTS:
        right |= {f"{split}_images": IMAGES[split], f"{split}_masks": MASKS[split]}
    write_npz(folder / "d.npz", **(right | arrays))
    write_segmentation_card(folder, card or {})


def refuse(folder: Path, bench: Bench) -> str:
    """The line with which both commands refuse the task; nothing of it is left behind."""
    shared = ("--data", folder)
    options = ("--protocol", "quick", "--budget", "10-shot", "--out", folder / "out")
    outcomes = [
        bench("validate", folder / "cards", *shared),
        bench("evaluate", "--encoder", "resnet18", "--tasks", folder / "cards", *shared, *options),
    ]
    validated, evaluated = (outcome.err.removeprefix("error: ") for outcome in outcomes)
    assert [outcome.code for outcome in outcomes] == [2, 2]
    # What is seen without decoding is said with the card's path before it.
    assert evaluated.count("\n") == 1 and validated.endswith(evaluated)
    assert not (folder / "out").exists()
    assert not list((cache_folder() / "splits").glob("build-*"))
    return evaluated.strip().replace(f"{folder}/", "")


def mark(value: int, dtype: str = "uint8", split: str = "train") -> Mask:
    """The right masks but for one pixel of the fourth."""
    masks = MASKS[split].astype(dtype)
    masks[3, 5, 6] = value
    return masks


NPZ: dict[str, tuple[dict[str, Any], str]] = {
    "unnamed class": (
        {"train_masks": mark(3)},
        "d: train: d.npz: item 3: mask value 3 is none of the card's 3 classes (0 to 2)",
    ),
    "unnamed class in a test": (
        {"test_masks": mark(9, split="test")},
        "d: in_domain: d.npz: item 3: mask value 9 is none of the card's 3 classes (0 to 2)",
    ),
    "0 and 255 of three classes": (
        {"train_masks": (MASKS["train"] > 0).astype(np.uint8) * 255},
        "d: train: d.npz: item 1: mask value 255 is none of the card's 3 classes (0 to 2); save "
        "each pixel as the id of its class",
    ),
    "0 and 255 of two classes": (
        {
            "card": {"classes": CLASSES[:2]},
            "train_masks": (MASKS["train"] > 0).astype(np.uint8) * 255,
        },
        "d: train: d.npz: item 1: mask value 255 is none of the card's 2 classes (0 to 1); save "
        "255 as 1",
    ),
    "255 to be ignored": (
        {"train_masks": mark(255)},
        "d: train: d.npz: item 3: mask value 255 is none of the card's 3 classes (0 to 2); no "
        "value means 'ignore': save each pixel as the id of a class",
    ),
    "shades of grey": (
        {"train_masks": np.array([0, 127, 255], np.uint8)[MASKS["train"]]},
        "d: train: d.npz: item 1: mask value 127 is none of the card's 3 classes (0 to 2)",
    ),
    "another size": (
        {"train_masks": np.zeros((12, 8, 16), np.uint8)},
        "d.npz: train_masks: shape (12, 8, 16); (12, 16, 16) is expected, one class id for each "
        "pixel of the images",
    ),
    "fewer masks": (
        {"val_masks": MASKS["val"][:3]},
        "d.npz: val_masks: shape (3, 16, 16); (4, 16, 16) is expected, one class id for each "
        "pixel of the images",
    ),
    "colours": (
        {"train_masks": MASKS["train"][..., None].repeat(3, axis=3)},
        "d.npz: train_masks: shape (12, 16, 16, 3); (12, 16, 16) is expected, one class id for "
        "each pixel of the images",
    ),
    "float": (
        {"train_masks": MASKS["train"].astype(np.float32)},
        "d.npz: train_masks: float32 masks; uint8 class ids are expected",
    ),
    "negative": (
        {"train_masks": mark(-1, "int16")},
        "d: train: d.npz: train_masks: value -1; 0 to 255 is expected (item 3)",
    ),
    "beyond a byte": (
        {"train_masks": mark(257, "int64")},
        "d: train: d.npz: train_masks: value 257; 0 to 255 is expected (item 3)",
    ),
    "objects": (
        {"train_masks": np.array([None] * 12, object)},
        "d.npz: train_masks: holds pickled Python objects, which are never loaded",
    ),
    "no masks": (
        {"train_masks": None},
        "d.npz: train_labels: no such array, and no train_masks for segmentation; found: "
        "train_images",
    ),
    "another name": (
        {"train_masks": None, "train_mask": MASKS["train"]},
        "d.npz: train_labels: no such array, and no train_masks for segmentation; found: "
        "train_images, train_mask",
    ),
    "labels and no masks": (
        {"train_masks": None, "train_labels": np.arange(12) % 3},
        "d: train: d.npz: holds no masks, but the card's kind is segmentation; an .npz has them in "
        "<split>_masks, a folder in the column 'mask' of its table",
    ),
    "empty split": (
        {"val_images": IMAGES["val"][:0], "val_masks": MASKS["val"][:0]},
        "d.npz: val_images: the split is empty (shape (0, 16, 16))",
    ),
    "nothing to learn": (
        {"train_masks": MASKS["train"] * 0},
        "d: train: d.npz: nothing can be told apart there: every pixel of the masks is background",
    ),
    "nothing to select by": (
        {"val_masks": MASKS["val"] * 0},
        "d: validation: d.npz: nothing can be told apart there: every pixel of the masks is "
        "background",
    ),
    "nothing to find": (
        {"test_masks": MASKS["test"] * 0},
        "d: in_domain: d.npz: nothing can be told apart there: every pixel of the masks is "
        "background",
    ),
    "nothing but one structure": (
        {"test_masks": MASKS["test"] * 0 + 1},
        "d: in_domain: d.npz: nothing can be told apart there: every pixel of the masks is vessel",
    ),
    "class without example": (
        {"train_masks": MASKS["train"] % 2},
        "d: train: d.npz: class 'lesion' has no training example: no mask holds it",
    ),
    "more classes than a byte has values": (
        {"card": {"classes": [f"class {number}" for number in range(256)]}},
        "d: train: d.npz: 256 classes; masks tell at most 255 apart",
    ),
    "a card of another kind": (
        {"card": {"kind": "multiclass", "metric": "auroc"}},
        "d: train: d.npz: holds masks, but the card's kind is multiclass; kind: segmentation is "
        "expected",
    ),
}


@pytest.mark.parametrize("case", NPZ)
def test_wrong_arrays_are_refused(
    case: str,
    tmp_path: Path,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line names the task, the split, the file, the first wrong item, and what is right."""
    monkeypatch.setattr(npz_source, "_BATCH_BYTES", 1)  # so that items lie in other batches
    arrays, message = NPZ[case]
    write_task(tmp_path, **arrays)
    assert refuse(tmp_path, bench) == message


def test_wrong_external_test_is_refused(tmp_path: Path, bench: Bench) -> None:
    """An external split without any structure measures nothing, and spoils a run beforehand."""
    external = {"elsewhere": {"npz": "e.npz", "split": "test"}}
    write_task(tmp_path, card={"out_of_domain": external})
    write_npz(
        tmp_path / "e.npz",
        **{"test_images": IMAGES["test"], "test_labels": None, "test_masks": MASKS["test"] * 0},
    )
    write_card(tmp_path / "cards", "a_right_one", "small.npz")
    write_npz(tmp_path / "small.npz")
    assert refuse(tmp_path, bench) == (
        "d: elsewhere: e.npz: nothing can be told apart there: every pixel of the masks is "
        "background"
    )


RIGHT: dict[str, dict[str, Any]] = {
    "int16": {"train_masks": MASKS["train"].astype(np.int16)},
    "int64": {"train_masks": MASKS["train"].astype(np.int64)},
    "big-endian": {"train_masks": MASKS["train"].astype(">u2")},
    "labels too": {"train_labels": np.arange(12)},
    "class absent in a test": {"test_masks": np.minimum(MASKS["test"], 1)},
    "no background": {"train_masks": MASKS["train"] % 2 + 1},
    "bool": {
        "card": {"classes": CLASSES[:2]},
        **{f"{split}_masks": masks > 0 for split, masks in MASKS.items()},
    },
}


@pytest.mark.parametrize("case", RIGHT)
def test_right_arrays_are_taken(case: str, tmp_path: Path, bench: Bench) -> None:
    """Integers of any width and booleans are ids; a structure may be absent from a test."""
    write_task(tmp_path, **RIGHT[case])
    outcome = bench("validate", tmp_path / "cards", "--data", tmp_path)
    assert outcome.code == 0, outcome.err
    data = open_task(load_tasks(tmp_path / "cards")["d"], folder=tmp_path)
    for split, name in zip(("train", "validation", "in_domain"), COUNTS, strict=True):
        expected = RIGHT[case].get(f"{name}_masks", MASKS[name])
        np.testing.assert_array_equal(data.splits[split].masks, expected)  # type: ignore[arg-type]
        assert data.splits[split].labels.shape == (COUNTS[name], 0)


# The same of image files with a table.


Rows = list[list[str]]
WRONG = "f/masks/train3.png"


def write_folder(folder: Path) -> Rows:
    """The task ``d`` of image files, and the rows of its table."""
    (folder / "f" / "masks").mkdir(parents=True)
    rows = [["file", "split", "mask"]]
    for split in COUNTS:
        for number, (image, mask) in enumerate(zip(IMAGES[split], MASKS[split], strict=True)):
            name = f"{split}{number}.png"
            Image.fromarray(image).save(folder / "f" / name)
            Image.fromarray(mask).save(folder / "f" / "masks" / name)
            rows.append([name, split, f"masks/{name}"])
    source = {"folder": "f", "table": "table.csv", "size": 16, "channels": 1}
    sources = {"train": "train", "validation": "val", "in_domain": "test"}
    card = {name: source | {"split": split} for name, split in sources.items()}
    write_task(folder, card=card)
    return rows


def write_table(folder: Path, rows: Rows) -> None:
    with (folder / "f" / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def colours(*channels: int) -> Mask:
    """The right mask times a number in each channel; 255 is an opaque one."""
    return np.stack([MASK * 0 + 255 if c == 255 else MASK * c for c in channels], axis=2)


def reopen_mode(pixels: Mask) -> str:
    """What this version of Pillow calls such a PNG: 16 bits are I or I;16."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return Image.open(file).mode


FILES: dict[str, tuple[Mask | bytes | None, str]] = {
    "unnamed class": (
        np.where(MASK == 2, 3, MASK).astype(np.uint8),
        "d: train: f/table.csv (train): item train3.png: mask value 3 is none of the card's 3 "
        "classes (0 to 2)",
    ),
    "0 and 255": (
        np.where(MASK > 0, 255, 0).astype(np.uint8),
        "d: train: f/table.csv (train): item train3.png: mask value 255 is none of the card's 3 "
        "classes (0 to 2); save each pixel as the id of its class",
    ),
    "another size": (
        MASK[:12],
        f"d: train: {WRONG}: a mask of 16 x 12 pixels; its image train3.png has 16 x 16",
    ),
    "colours": (
        colours(1, 0, 2),
        f"d: train: {WRONG}: a mask of mode RGB (3 channels); one 8-bit channel of class ids is "
        "expected",
    ),
    "grey as colours": (
        colours(1, 1, 1),
        f"d: train: {WRONG}: a mask of mode RGB (3 channels); one 8-bit channel of class ids is "
        "expected; it is grey, so save its first alone",
    ),
    "transparency": (
        colours(1, 1, 1, 255),
        f"d: train: {WRONG}: a mask of mode RGBA (4 channels); one 8-bit channel of class ids is "
        "expected; it is grey, so save its first alone",
    ),
    "16 bits": (
        MASK.astype(np.uint16),
        f"d: train: {WRONG}: a mask of mode {reopen_mode(MASK.astype(np.uint16))}; "
        "one 8-bit channel of class ids is expected",
    ),
    "no image": (
        b"a mask",
        f"d: train: {WRONG}: not an image (PNG, JPEG, TIFF, BMP, GIF or DICOM)",
    ),
    "nothing in the file": (
        b"",
        "f/table.csv: row 5: mask: 'masks/train3.png': the file is empty (0 bytes)",
    ),
    "missing": (None, "f/table.csv: row 5: mask: 'masks/train3.png': no such file"),
}


@pytest.mark.parametrize("case", FILES)
def test_wrong_files_are_refused(case: str, tmp_path: Path, bench: Bench) -> None:
    """One line names the file, or the row of the table, and what is right."""
    write_table(tmp_path, write_folder(tmp_path))
    content, message = FILES[case]
    (tmp_path / WRONG).unlink()
    if isinstance(content, bytes):
        (tmp_path / WRONG).write_bytes(content)
    elif content is not None:
        Image.fromarray(content).save(tmp_path / WRONG)
    assert refuse(tmp_path, bench) == message


TABLES: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "no path": (
        lambda rows: [[*row[:2], ""] if row[0] == "train3.png" else row for row in rows],
        "f/table.csv: row 5: mask: ''; a path relative to the folder and inside it is expected",
    ),
    "another name of the column": (
        lambda rows: [[*rows[0][:2], "masks"], *rows[1:]],
        "f/table.csv: row 2: masks: 'masks/train0.png'; 1, 0, or -1 or nothing (unknown) is "
        "expected in the column of a label; a column of masks is called 'mask'",
    ),
    "names and no masks": (
        lambda rows: [[*rows[0][:2], "label"], *([*row[:2], "vessel"] for row in rows[1:])],
        "d: train: f/table.csv (train): holds no masks, but the card's kind is segmentation; an "
        ".npz has them in <split>_masks, a folder in the column 'mask' of its table",
    ),
    "no rows of a split": (
        lambda rows: [row for row in rows if row[1] != "val"],
        "f/table.csv: split: no row has 'val'; known: test, train",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables_are_refused(case: str, tmp_path: Path, bench: Bench) -> None:
    """One line names the table, its row and column, and what is right."""
    change, message = TABLES[case]
    write_table(tmp_path, change(write_folder(tmp_path)))
    assert refuse(tmp_path, bench) == message


def test_masks_of_a_folder_need_a_card_of_their_kind(tmp_path: Path, bench: Bench) -> None:
    """A classification card does not read them as anything."""
    write_table(tmp_path, write_folder(tmp_path))
    card = tmp_path / "cards" / "d.yaml"
    text = card.read_text().replace("segmentation", "multiclass")
    card.write_text(text.replace("dice", "auroc"))
    assert refuse(tmp_path, bench) == (
        "d: train: f/table.csv (train): holds masks, but the card's kind is multiclass; kind: "
        "segmentation is expected"
    )


def test_indices_of_a_palette_are_ids(tmp_path: Path, bench: Bench) -> None:
    """Annotation tools write such masks; their colours do not matter."""
    write_table(tmp_path, write_folder(tmp_path))
    mask = Image.fromarray(MASK).convert("P")
    mask.putdata(MASK.reshape(-1).tolist())
    mask.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    mask.save(tmp_path / WRONG)
    outcome = bench("validate", tmp_path / "cards", "--data", tmp_path)
    assert outcome.code == 0, outcome.err
    split = open_task(load_tasks(tmp_path / "cards")["d"], folder=tmp_path).splits["train"]
    assert split.masks is not None
    np.testing.assert_array_equal(split.masks[split.ids.index("train3.png")], MASK)


# The same of official files.


@pytest.mark.parametrize(
    ("select", "value", "expected"),
    [
        (None, 3, "mask value 3 is none of the card's 3 classes (0 to 2)"),
        ({"any": ["cytoplasm", "nucleus"]}, 3, "mask value 3 is none of the source's 3 classes"),
        (None, 255, "mask value 255 is none of the card's 3 classes (0 to 2); no value means"),
    ],
)
def test_wrong_official_masks_are_refused(
    select: dict[str, list[str]] | None,
    value: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An id beyond the official ones is an error, whatever the card makes of these."""
    sets, source = official.array_sets("medsegbench"), {"medsegbench": "wbc", "size": 128}
    arrays = draw_arrays(sets["wbc"], 128, seed=0)
    arrays["test_label"][1, 0, 0] = value
    np.savez(tmp_path / "wbc_128.npz", **arrays)  # type: ignore[arg-type]
    md5 = hashlib.md5((tmp_path / "wbc_128.npz").read_bytes()).hexdigest()
    update = {"md5": {128: md5}, "items": ITEMS}
    monkeypatch.setitem(sets, "wbc", sets["wbc"].model_copy(update=update))
    splits = {"train": "train", "validation": "val", "in_domain": "test"}
    changes: dict[str, Any] = {
        name: source | {"split": split} | ({"select": select} if select else {})
        for name, split in splits.items()
    }
    changes["classes"] = ["background", "any"] if select else sets["wbc"].labels
    write_segmentation_card(tmp_path, changes)
    with pytest.raises(InputError) as caught:
        open_task(load_tasks(tmp_path / "cards")["d"], folder=tmp_path)
    assert str(caught.value).startswith(f"d: in_domain: wbc_128.npz: item 1: {expected}")


def test_wrong_official_volumes_are_refused(tmp_path: Path) -> None:
    """A voxel beyond the names of ``dataset.json`` is an error that names its file."""
    draw_archive("Task09_Spleen", tmp_path)
    card: TaskCard = CARDS["spleen"]
    for path in (tmp_path / "Task09_Spleen" / "labelsTr").iterdir():
        voxels = np.zeros(SHAPE, np.uint8)
        voxels[25, 10, 2] = 2
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 5.0, 1.0])), path)
    with pytest.raises(InputError, match=r"volume_\d\.nii\.gz: mask value 2; .* 0 to 1$"):
        open_task(card, folder=tmp_path)
