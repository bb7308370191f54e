"""Phantoms: what a name promises about its images, whatever they look like."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medtransfer import phantoms
from medtransfer.phantoms import PHANTOMS, SPLITS, Drawing, generate
from tests.helpers.phantoms import CHEST, generator

CASES = [(name, scanner) for name, kind in PHANTOMS.items() for scanner in kind.scanners]
FINDINGS = [
    (name, finding)
    for name in ("chest-xray", "ct", "oct", "fundus")
    for finding in PHANTOMS[name].classes[1:]
]
# Of the first three test images of either scanner, SHA-256.
DIGESTS = {
    "natural": "5c71edf0f6912b09",
    "chest-xray": "2408626339539a54",
    "ct": "6e532bdaa8b3b033",
    "oct": "cbdf7ef6e7f81ff4",
    "chest-findings": "53469ece7cd5405c",
    "fundus": "767832e63146326f",
    "microscopy": "c517e22537999c1c",
    "ultrasound": "07063931a3ca1078",
    "dermoscopy": "d8d517a0a375e4b2",
}


def draw_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a phantom draw black images, where the labels alone matter."""
    kind = PHANTOMS[name]
    shape = (8, 8) if kind.channels == 1 else (8, 8, 3)
    black = Drawing(np.zeros(shape), np.zeros((8, 8), np.uint8))
    monkeypatch.setitem(PHANTOMS, name, replace(kind, draw=lambda rng, finding, size: black))


def changed(image: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where two drawings differ visibly, (H, W)."""
    return np.abs(image - other).max(axis=tuple(range(2, image.ndim))) > 0.05


def test_all_names_exist() -> None:
    """Everything the package exports is there, once."""
    assert len(set(phantoms.__all__)) == len(phantoms.__all__)
    assert all(hasattr(phantoms, name) for name in phantoms.__all__)


@pytest.mark.parametrize("name", PHANTOMS)
def test_images_stay_the_same(name: str) -> None:
    """A name gives the same image for ever: records made on it stay comparable."""
    digest = sha256()
    for scanner in ("standard", "other"):
        digest.update(generate(name, split="test", items=3, scanner=scanner).images.tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[name]


@pytest.mark.parametrize(("name", "scanner"), CASES)
def test_fewer_items_are_a_prefix(name: str, scanner: str) -> None:
    """An item depends on its own name alone, not on how many are drawn or what was drawn before."""
    few = generate(name, split="test", items=4, scanner=scanner)
    generate(name, split="train", items=1)
    more = generate(name, split="test", items=7, scanner=scanner)
    np.testing.assert_array_equal(few.images, more.images[:4])
    np.testing.assert_array_equal(few.labels, more.labels[:4])
    assert few.ids == more.ids[:4]


@pytest.mark.parametrize("size", [48, 64])
@pytest.mark.parametrize(("name", "scanner"), CASES)
def test_shapes_and_types(name: str, scanner: str, size: int) -> None:
    """Images are uint8 of the size and the channels promised, and use the range of brightness."""
    kind = PHANTOMS[name]
    images, labels, ids, _ = generate(name, split="train", items=6, scanner=scanner, size=size)
    assert images.shape == ((6, size, size) if kind.channels == 1 else (6, size, size, 3))
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.shape == ((6, len(kind.classes)) if kind.multilabel else (6,))
    assert len(ids) == 6
    spread = images.reshape(6, -1).astype(float).std(axis=1)
    assert spread.min() > 10


@pytest.mark.parametrize("items", [50, 400])
@pytest.mark.parametrize(("name", "scanner"), CASES)
def test_labels_follow_prevalence(
    name: str, scanner: str, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every prefix the classes have the scanner's shares, to within four items."""
    kind = PHANTOMS[name]
    draw_nothing(name, monkeypatch)
    labels = generate(name, split="test", items=items, scanner=scanner, size=8).labels
    if not kind.multilabel:
        labels = np.eye(len(kind.classes), dtype=np.int64)[labels]
    expected = np.arange(1, items + 1)[:, None] * np.array(kind.prevalence[scanner])
    assert np.abs(labels.cumsum(axis=0) - expected).max() <= 4


@pytest.mark.parametrize("name", PHANTOMS)
def test_splits_and_scanners_are_disjoint(name: str) -> None:
    """No image and no id occurs in two splits, with two scanners, or twice."""
    images, ids = [], []
    for split in SPLITS:
        for scanner in PHANTOMS[name].scanners:
            drawn = generate(name, split=split, items=10, scanner=scanner)
            images += [image.tobytes() for image in drawn.images]
            ids += drawn.ids
    assert len(set(images)) == len(images)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", PHANTOMS)
def test_declarations_agree(name: str) -> None:
    """Each scanner has a positive share per class; shares of exclusive classes add up to one."""
    kind = PHANTOMS[name]
    assert set(kind.scanners) == set(kind.prevalence) == {"standard", "other"}
    for shares in kind.prevalence.values():
        assert len(shares) == len(kind.classes)
        assert min(shares) > 0
        assert kind.multilabel or sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("name", PHANTOMS)
def test_other_scanner_shifts_brightness(name: str) -> None:
    """The other scanner's images differ in mean or in contrast by more than sampling explains."""
    moments = []
    for scanner in ("standard", "other"):
        images = generate(name, split="test", items=60, scanner=scanner).images.reshape(60, -1)
        moments.append(np.stack([images.mean(axis=1), images.std(axis=1)]))
    gap = np.abs(moments[0].mean(axis=1) - moments[1].mean(axis=1))
    error = np.sqrt(sum(m.var(axis=1) for m in moments) / 60)
    assert (gap / error).max() > 4


@pytest.mark.parametrize(("name", "finding"), FINDINGS)
def test_finding_changes_only_its_region(name: str, finding: str) -> None:
    """With one generator the anatomy stays; only the finding's surroundings differ from normal."""
    kind = PHANTOMS[name]
    for seed in range(10):
        normal = kind.draw(generator(seed), "normal", 64)
        sick = kind.draw(generator(seed), finding, 64)
        differs = changed(sick.image, normal.image)
        assert not normal.mask.any()
        assert sick.mask.any()
        assert differs[sick.mask > 0].mean() > 0.3
        # Drusen lift the layers above them, so what may change is the columns they stand in.
        reach = sick.mask.any(axis=0) if finding == "drusen" else sick.mask > 0
        allowed = ndimage.binary_dilation(np.broadcast_to(reach, differs.shape), iterations=6)
        assert not (differs & ~allowed).any()


@pytest.mark.parametrize("finding", CHEST.classes)
def test_chest_finding_ignores_the_others(finding: str) -> None:
    """A chest finding changes the same pixels, by as much, whatever else the image shows."""
    others = frozenset(CHEST.classes) - {finding}
    for seed in range(10):
        alone = CHEST.draw(generator(seed), frozenset([finding]), 64)
        none = CHEST.draw(generator(seed), frozenset(), 64)
        everything = CHEST.draw(generator(seed), frozenset(CHEST.classes), 64)
        without = CHEST.draw(generator(seed), others, 64)
        assert not none.mask.any()
        np.testing.assert_array_equal(everything.mask, alone.mask | without.mask)
        four = np.stack([d.image for d in (alone, none, everything, without)])
        shown = (four.min(axis=0) > 0) & (four.max(axis=0) < 1)
        np.testing.assert_allclose(
            (everything.image - without.image)[shown],
            (alone.image - none.image)[shown],
            atol=1e-9,
        )
        differs = changed(alone.image, none.image)
        assert differs[alone.mask > 0].mean() > 0.3
        assert not (differs & ~ndimage.binary_dilation(alone.mask, iterations=3)).any()


def test_chest_phantoms_share_their_anatomy() -> None:
    """Without a finding both chest phantoms draw the same chest from the same generator."""
    for seed in range(3):
        np.testing.assert_array_equal(
            CHEST.draw(generator(seed), frozenset(), 64).image,
            PHANTOMS["chest-xray"].draw(generator(seed), "normal", 64).image,
        )


@pytest.mark.parametrize("scanner", CHEST.scanners)
def test_labels_hardly_depend_on_each_other(scanner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several labels none tells another, many images have none, and some have more than one."""
    draw_nothing("chest-findings", monkeypatch)
    for split in SPLITS:
        labels = generate("chest-findings", split=split, items=400, scanner=scanner, size=8).labels
        assert set(np.unique(labels)) == {0, 1}
        between = np.corrcoef(labels.T) - np.eye(len(CHEST.classes))
        assert np.abs(between).max() < 0.1
        assert (labels.sum(axis=1) == 0).mean() > 0.3
        assert (labels.sum(axis=1) > 1).mean() > 0.1


def test_image_shows_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The findings that an image of several labels is drawn with are those that its row names."""
    drawn = []

    def record(rng: np.random.Generator, findings: frozenset[str], size: int) -> Drawing:
        drawn.append([int(name in findings) for name in CHEST.classes])
        return CHEST.draw(rng, findings, size)

    monkeypatch.setitem(PHANTOMS, "chest-findings", replace(CHEST, draw=record))
    labels = generate("chest-findings", split="train", items=12, size=16).labels
    np.testing.assert_array_equal(labels, drawn)
