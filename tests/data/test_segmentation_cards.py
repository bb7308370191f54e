"""Shipped segmentation cards, with synthetic official files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.data import official
from medtransfer.data.sources.decathlon import official_tasks
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.source import CorruptSource, DecathlonSource, MedsegbenchSource, Source
from medtransfer.specs.task import TaskCard, load_tasks
from tests.conftest import ROOT
from tests.helpers.segmentation_cards import write_segmentation_card
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
