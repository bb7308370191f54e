"""The phantoms: what a name promises about its images, whatever they look like."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medtransfer.data import phantoms
from medtransfer.data.phantoms import PHANTOMS, SPLITS, Drawing, Phantom, Scanner, acquire, generate
from medtransfer.data.phantoms.canvas import blob, cover, curves, discs, ellipse, frame

CASES = [(name, scanner) for name, kind in PHANTOMS.items() for scanner in kind.scanners]
FINDINGS = [
    (name, finding)
    for name in ("chest-xray", "ct", "oct", "fundus")
    for finding in PHANTOMS[name].classes[1:]
]
CHEST = PHANTOMS["chest-findings"]
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


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def truth(kind: Phantom, name: str) -> str | frozenset[str]:
    """What a phantom's `draw` takes for an image with this class alone."""
    return frozenset([name]) if kind.multilabel else name


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
    images, labels, ids = generate(name, split="train", items=6, scanner=scanner, size=size)
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


@pytest.mark.parametrize("name", PHANTOMS)
def test_masks_are_the_same_at_every_size(name: str) -> None:
    """From 28 to 224 pixels a finding is there and takes about the same share of the image."""
    kind = PHANTOMS[name]
    for finding in kind.classes:
        if finding == "normal":
            continue
        shares = {
            size: np.mean(
                [
                    kind.draw(generator(seed), truth(kind, finding), size).mask.mean()
                    for seed in range(seeds)
                ]
            )
            for size, seeds in ((28, 16), (224, 4))
        }
        assert shares[28] > 0
        assert 0.4 < shares[28] / shares[224] < 2.5


@pytest.mark.parametrize("name", PHANTOMS)
def test_drawings_lie_in_range(name: str) -> None:
    """Every class draws finite brightness in [0, 1] and a binary mask of the same height, width."""
    kind = PHANTOMS[name]
    for finding in kind.classes:
        drawing = kind.draw(generator(0), truth(kind, finding), 64)
        assert drawing.image.dtype == np.float64
        assert np.isfinite(drawing.image).all()
        assert drawing.image.min() >= 0
        assert drawing.image.max() <= 1
        assert drawing.mask.shape == drawing.image.shape[:2] == (64, 64)
        assert set(np.unique(drawing.mask)) <= {0, 1}


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3)])
def test_neutral_scanner_changes_nothing(shape: tuple[int, ...]) -> None:
    """Without noise, a scanner of default settings returns the object itself."""
    image = generator(1).random(shape)
    taken = acquire(image, generator(2), Scanner(noise=0.0))
    np.testing.assert_allclose(taken, image, atol=1e-12)


def test_pose_moves_the_object() -> None:
    """A magnification of two doubles an object's width and keeps its centre."""
    image = np.zeros((64, 64))
    image[24:40, 24:40] = 1
    taken = acquire(image, generator(0), Scanner(noise=0.0, scale=(2.0, 2.0)))
    assert taken.sum() == pytest.approx(4 * image.sum(), rel=0.02)
    assert ndimage.center_of_mass(taken) == pytest.approx((31.5, 31.5))


def test_cast_scales_the_colours() -> None:
    """A colour cast is a gain for each colour; a grey image has none."""
    image = 0.5 * generator(1).random((16, 16, 3))
    device = Scanner(noise=0.0, cast=(0.5, 1.0, 1.5))
    taken = acquire(image, generator(2), device)
    np.testing.assert_allclose(taken, image * [0.5, 1.0, 1.5], atol=1e-12)
    grey = acquire(image[..., 0], generator(2), device)
    np.testing.assert_allclose(grey, image[..., 0], atol=1e-12)


def test_shapes_are_distances() -> None:
    """Discs, curves and blobs without waves agree with shapes whose distance is known."""
    x, y = frame(64)
    two = discs(x, y, np.array([[-0.4, 0.1], [0.5, 0.0]]), np.array([0.2, 0.3]))
    one = [ellipse(x, y, (-0.4, 0.1), (0.2, 0.2)), ellipse(x, y, (0.5, 0.0), (0.3, 0.3))]
    np.testing.assert_allclose(two, np.minimum(*one), atol=1e-6)
    line = curves(y, (0.75 * x[0] + 0.1)[None], np.full((1, 64), 0.05))
    np.testing.assert_allclose(line, np.abs(0.8 * y - 0.6 * x - 0.08) - 0.05, atol=1e-9)
    placed = {"centre": (0.1, 0.0), "radii": (0.5, 0.3), "angle": 0.4}
    plain = blob(generator(0), x, y, **placed, waves={})
    np.testing.assert_array_equal(plain, ellipse(x, y, (0.1, 0.0), (0.5, 0.3), 0.4))
    waved = blob(generator(0), x, y, **placed, waves={5: 0.04})
    assert np.abs(waved - plain).max() == pytest.approx(0.04, rel=0.02)
    assert cover(waved).sum() == pytest.approx(cover(plain).sum(), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chest-xry", "train", "standard"), r"unknown phantom 'chest-xry'; .*'chest-xray'"),
        (("ct", "trian", "standard"), r"unknown split 'trian'; .*'train'"),
        (("ct", "train", "othr"), r"unknown scanner 'othr'; .*'other'"),
        (("mri", "train", "other"), r"unknown phantom 'mri'; choose one of natural, .*dermoscopy"),
    ],
)
def test_unknown_names_say_what_would_work(arguments: tuple[str, str, str], message: str) -> None:
    """A misspelt name is refused with the name that was probably meant."""
    phantom, split, scanner = arguments
    with pytest.raises(ValueError, match=message):
        generate(phantom, split=split, scanner=scanner, items=1)
