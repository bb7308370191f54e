"""Tables of official data, and the cards that use them."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from torchvision import datasets

from medtransfer.core.errors import InputError
from medtransfer.data import official
from medtransfer.data.sources import medmnist, medsegbench
from medtransfer.specs.source import MedmnistSource, MedsegbenchSource, Source, TorchvisionSource
from tests.conftest import ROOT
from tests.helpers.official import CARDS, LOADERS, SPLITS, entry_of, official_items


def installed_table(package: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The INFO table of an installed package, without importing it (which takes torch and more)."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed: its table cannot be compared")
    monkeypatch.setenv("HOME", str(home))  # where the table's module makes a folder
    table = runpy.run_path(str(Path(spec.origin).with_name("info.py")))["INFO"]
    assert isinstance(table, dict)
    return table


def test_medmnist_table_is_the_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 2-D data set of the package is there, with its names, sizes, address and MD5."""
    info = installed_table("medmnist", tmp_path, monkeypatch)
    sets = official.array_sets("medmnist")
    assert set(sets) == {name for name in info if not name.endswith("3d")}
    for name, entry in sets.items():
        expected = info[name]
        assert entry.labels == [expected["label"][str(i)] for i in range(len(entry.labels))]
        assert len(entry.labels) == len(expected["label"])
        assert entry.multilabel == ("multi-label" in expected["task"])
        assert entry.channels == expected["n_channels"]
        assert entry.items == expected["n_samples"]
        assert entry.licence == expected["license"]
        for size in (28, 64, 128, 224):
            [file] = medmnist.files(MedmnistSource(medmnist=name, split="test", size=size))
            suffix = "" if size == 28 else f"_{size}"
            assert (file.url, file.md5) == (expected[f"url{suffix}"], expected[f"MD5{suffix}"])
            assert file.name == f"{name}{suffix}.npz"


def test_medsegbench_table_is_the_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every data set of the package is there, with its names, sizes, address and MD5."""
    info = installed_table("medsegbench", tmp_path, monkeypatch)
    sets = official.array_sets("medsegbench")
    assert set(sets) == set(info)
    for name, entry in sets.items():
        expected = info[name]
        assert entry.labels == list(expected["pixel_labels"].values())
        assert entry.channels == expected["n_channels_im"]
        assert entry.items == {split: expected["n_samples"][split] for split in SPLITS}
        assert (entry.stored or sum(entry.items.values())) == sum(expected["n_samples"].values())
        for size in (128, 256, 512):
            source = MedsegbenchSource(medsegbench=name, split="test", size=size)
            [file] = medsegbench.files(source)
            # Two of the checksums have a space at their end.
            checksum = expected[f"MD5_{size}"].strip()
            assert (file.url, file.md5) == (expected[f"url_{size}"], checksum)


def test_torchvision_table_is_torchvisions() -> None:
    """Addresses and checksums are those of the classes that read the files."""
    sets = official.image_sets()
    found = {name: [(file.url, file.md5) for file in entry.files] for name, entry in sets.items()}
    flowers = datasets.Flowers102
    assert found == {
        "cifar10": [(datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5)],
        "cifar100": [(datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5)],
        "stl10": [(datasets.STL10.url, datasets.STL10.tgz_md5)],
        "oxford-iiit-pet": list(datasets.OxfordIIITPet._RESOURCES),
        "flowers102": [
            (flowers._download_url_prefix + name, checksum)
            for name, checksum in flowers._file_dict.values()
        ],
    }
    assert sets["flowers102"].labels == flowers.classes
    assert all(file.url.endswith(f"/{file.name}") for s in sets.values() for file in s.files)


def test_bound_of_a_download_is_what_its_arrays_take() -> None:
    """PneumoniaMNIST at 28 pixels: 5,856 images of 784 bytes; the published file has 4.2 MB."""
    source = MedmnistSource(medmnist="pneumoniamnist", split="test", size=28)
    [file] = medmnist.files(source)
    assert file.at_most is not None
    assert 5856 * 784 < file.at_most < 5856 * 784 + 100_000
    [wbc] = medsegbench.files(MedsegbenchSource(medsegbench="wbc", split="test", size=128))
    assert wbc.at_most is not None
    assert wbc.at_most > 1.9 * 400 * 128 * 128 * 4  # nearly all are there once more, by category


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            MedmnistSource(medmnist="pneumonia", split="test"),
            "medmnist: unknown data set 'pneumonia'; did you mean 'pneumoniamnist'?",
        ),
        (
            MedsegbenchSource(medsegbench="drives", split="test"),
            "medsegbench: unknown data set 'drives'; did you mean 'drive'?",
        ),
        (
            TorchvisionSource(torchvision="cifar-10", split="test"),
            "torchvision: unknown data set 'cifar-10'; did you mean 'cifar10'?",
        ),
    ],
)
def test_unknown_data_set_is_refused(source: Source, message: str) -> None:
    """A name that does not exist: one line with the closest that does."""
    loader = LOADERS[type(source)]
    for call in (
        lambda: loader.files(source),
        lambda: loader.identify(source, None),
        lambda: loader.decode(source, None),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


@pytest.mark.parametrize("name", CARDS)
def test_card_agrees_with_the_tables(name: str) -> None:
    """Sizes are the published ones, classes have the official names, and labels exist."""
    card = CARDS[name]
    assert card.lineage
    for split, source in card.sources.items():
        entry, items = entry_of(source), official_items(source)
        assert items is None or card.sizes[split] == items, split
        if source.select is None:
            plain = [
                ["".join(filter(str.isalnum, n.lower())) for n in names]
                for names in (card.classes, entry.labels)
            ]
            assert plain[0] == plain[1], split
        else:
            chosen = [label for labels in source.select.values() for label in labels]
            assert len(set(chosen)) == len(chosen)
            assert set(chosen) <= set(entry.labels), split
    assert card.licence == entry_of(card.train).licence
    if card.kind == "multilabel":
        for split, counts in card.counts.items():
            assert max(counts) < card.sizes[split]


def test_main_suite_covers_the_domains() -> None:
    """One card at least for each of the eight domains, and each is tested under corruption."""
    assert {card.domain for card in CARDS.values()} == {
        "natural",
        "chest-xray",
        "ct",
        "oct",
        "fundus",
        "ultrasound",
        "microscopy",
        "dermoscopy",
    }
    for card in CARDS.values():
        assert any(split.startswith("corrupted/") for split in card.test_splits), card.name


def test_nothing_that_has_a_side_is_flipped() -> None:
    """A flip would swap left and right organs, and move the heart."""
    for card in CARDS.values():
        sided = card.domain == "chest-xray" or any("left" in name for name in card.classes)
        assert card.flip != sided, card.name


def test_cards_are_short() -> None:
    """A card is read at a glance."""
    paths = [path for path in (ROOT / "tasks").rglob("*.yaml") if path.stem in CARDS]
    assert len(paths) == len(CARDS)
    assert median(len(path.read_text().splitlines()) for path in paths) < 30
