"""The phantoms: what a name promises about its images, whatever they look like."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medtransfer import phantoms
from medtransfer.core.documents import packaged
from medtransfer.core.errors import InputError
from medtransfer.data.sources import phantom as loader
from medtransfer.data.store import open_task
from medtransfer.phantoms import PHANTOMS, SPLITS, Drawing, Phantom, Scanner, acquire, generate
from medtransfer.phantoms.canvas import blob, cover, curves, discs, ellipse, frame
from medtransfer.specs.source import PhantomSource
from medtransfer.specs.task import load_card
from tests.conftest import Bench

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
MASK_DIGESTS = {"chest-xray": "5662f1973cbe769e", "ct": "9533e895510ccb78"}
# Smallest and largest share of a region's pixels, over the images of either scanner.
SHARES = {
    "chest-xray": {"lung": (0.15, 0.5), "heart": (0.03, 0.15)},
    "ct": {"liver": (0.03, 0.2), "spleen": (0.003, 0.04), "kidney": (0.01, 0.06)},
}
MASKED = [(name, scanner) for name in MASK_DIGESTS for scanner in PHANTOMS[name].scanners]
CARDS = ("chest_xray/phantom_lungs", "ct/phantom_organs")


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


def photograph(image: NDArray[np.float64], seed: int, scanner: Scanner) -> NDArray[np.float64]:
    """What a scanner makes of an image alone."""
    return acquire(
        Drawing(image, np.zeros(image.shape[:2], np.uint8)), generator(seed), scanner
    ).image


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


@pytest.mark.parametrize("name", PHANTOMS)
def test_masks_stay_the_same(name: str) -> None:
    """A name gives the same mask for ever, and none where the phantom has no regions."""
    scanners = ("standard", "other")
    masks = [generate(name, split="test", items=3, scanner=scanner).masks for scanner in scanners]
    if name not in MASK_DIGESTS:
        assert masks == [None, None]
        return
    assert sha256(np.stack(masks).tobytes()).hexdigest()[:16] == MASK_DIGESTS[name]


@pytest.mark.parametrize(("name", "scanner"), MASKED)
def test_masks_show_every_organ(name: str, scanner: str) -> None:
    """Every image has every organ at a plausible size, and a lesion if its label says so."""
    drawn = generate(name, split="test", items=60, scanner=scanner)
    assert drawn.masks is not None
    assert drawn.masks.dtype == np.uint8
    assert drawn.masks.shape == drawn.images.shape
    regions = PHANTOMS[name].regions
    assert drawn.masks.max() == len(regions) - 1
    for organ, (least, most) in SHARES[name].items():
        shares = (drawn.masks == regions.index(organ)).mean(axis=(1, 2))
        assert least < shares.min() <= shares.max() < most, organ
    if "lesion" in regions:
        sick = (drawn.masks == regions.index("lesion")).any(axis=(1, 2))
        np.testing.assert_array_equal(sick, drawn.labels > 0)


@pytest.mark.parametrize(("name", "scanner"), MASKED)
def test_masks_depend_on_the_id_alone(name: str, scanner: str) -> None:
    """The mask of an id is the same however many items are drawn."""
    few = generate(name, split="test", items=2, scanner=scanner)
    more = generate(name, split="test", items=5, scanner=scanner)
    assert few.masks is not None
    assert more.masks is not None
    assert few.ids == more.ids[:2]
    np.testing.assert_array_equal(few.masks, more.masks[:2])


@pytest.mark.parametrize("scanner", CHEST.scanners)
def test_lungs_are_dark_where_their_mask_is(scanner: str) -> None:
    """In every chest the lungs are darker than the heart and than what borders them.

    On average they differ less under a mask that lies three pixels off.
    """
    images, _, _, masks = generate("chest-xray", split="test", items=60, scanner=scanner)
    assert masks is not None

    def contrast(masks: NDArray[np.uint8]) -> list[float]:
        pairs = zip(images, masks, strict=True)
        return [image[mask == 2].mean() - image[mask == 1].mean() for image, mask in pairs]

    assert min(contrast(masks)) > 30
    for image, lung in zip(images, masks == 1, strict=True):
        rim = ndimage.binary_dilation(lung, iterations=3) & ~lung
        assert image[rim].mean() - image[lung].mean() > 15
    for axis in (1, 2):
        for step in (-3, 3):
            shifted = contrast(np.roll(masks, step, axis=axis))
            assert np.mean(shifted) < np.mean(contrast(masks)) - 5


@pytest.mark.parametrize("scanner", PHANTOMS["ct"].scanners)
def test_organs_of_the_slice_are_where_their_mask_is(scanner: str) -> None:
    """In every slice a cyst is darker than the liver, a mass brighter, a kidney than its fat."""
    images, labels, _, masks = generate("ct", split="test", items=60, scanner=scanner)
    assert masks is not None
    background, liver, _, kidney, lesion = range(5)
    for image, label, mask in zip(images.astype(float), labels, masks, strict=True):
        fat = ndimage.binary_dilation(mask == kidney, iterations=2) & (mask == background)
        assert image[mask == kidney].mean() - image[fat].mean() > 10
        if label:
            step = image[mask == lesion].mean() - image[mask == liver].mean()
            assert (step < -8) if PHANTOMS["ct"].classes[label] == "cyst" else (step > 8)


@pytest.mark.parametrize("seed", range(5))
def test_masks_take_the_pose_of_the_image(seed: int) -> None:
    """A posed mask is that of the ellipse turned, magnified and shifted by what was drawn."""
    x, y = frame(96)
    centre, radii, angle = (0.2, -0.15), (0.5, 0.25), 0.4
    inside = ellipse(x, y, centre, radii, angle) < 0
    device = Scanner(noise=0.0, rotation=(-30, 30), scale=(0.7, 1.3), shift=0.1)
    shape = Drawing(inside.astype(float), inside.astype(np.uint8), 2 * inside.astype(np.uint8))
    taken = acquire(shape, generator(seed), device)

    rng = generator(seed)
    turn, scale = np.deg2rad(rng.uniform(-30, 30)), rng.uniform(0.7, 1.3)
    down, right = 2 * rng.uniform(-0.1, 0.1, 2)
    moved = (
        scale * (np.cos(turn) * centre[0] + np.sin(turn) * centre[1]) + right,
        scale * (np.cos(turn) * centre[1] - np.sin(turn) * centre[0]) + down,
    )
    expected = ellipse(x, y, moved, (scale * radii[0], scale * radii[1]), angle - turn) < 0
    assert taken.regions is not None
    np.testing.assert_array_equal(taken.regions, 2 * taken.mask)
    assert (taken.mask != expected).mean() < 0.01
    assert ((taken.image > 0.5) != expected).mean() < 0.01


def test_collimator_hides_the_mask() -> None:
    """What lies under the dark border is in no mask, and nothing else is left out."""
    full = np.ones((64, 64))
    device = Scanner(noise=0.0, collimation=0.2)
    object_ = Drawing(full, full.astype(np.uint8), 3 * full.astype(np.uint8))
    taken = acquire(object_, generator(0), device)
    dark = taken.image < 0.5
    assert 0.05 < dark.mean() < 0.8
    np.testing.assert_array_equal(taken.mask, ~dark)
    np.testing.assert_array_equal(taken.regions, 3 * ~dark)


@pytest.mark.parametrize("name", MASK_DIGESTS)
def test_regions_are_the_same_at_every_size(name: str) -> None:
    """From 28 to 224 pixels every region takes about the same share of the image."""
    kind = PHANTOMS[name]

    def shares(size: int) -> NDArray[np.float64]:
        drawings = [kind.draw(generator(seed), kind.classes[1], size) for seed in range(6)]
        regions = np.stack([drawing.regions for drawing in drawings if drawing.regions is not None])
        return np.bincount(regions.ravel(), minlength=len(kind.regions)) / regions.size

    np.testing.assert_allclose(shares(28), shares(224), rtol=0.25)


def test_lesion_is_the_finding() -> None:
    """The region called lesion is the mask of the finding, and covers liver alone."""
    kind = PHANTOMS["ct"]
    for seed in range(10):
        sick, normal = (kind.draw(generator(seed), name, 64) for name in ("cyst", "normal"))
        assert sick.regions is not None
        assert normal.regions is not None
        lesion = sick.regions == kind.regions.index("lesion")
        np.testing.assert_array_equal(lesion, sick.mask)
        np.testing.assert_array_equal(sick.regions[~lesion], normal.regions[~lesion])
        assert (normal.regions[lesion] == kind.regions.index("liver")).mean() > 0.9


@pytest.mark.parametrize("card", CARDS)
def test_segmentation_cards(card: str, tmp_path: Path, bench: Bench) -> None:
    """A card's data are the phantom's masks under its own names, and `validate` counts them."""
    shipped = packaged("tasks") / f"{card}.yaml"
    path = tmp_path / shipped.name
    path.write_text(shipped.read_text().replace("items: 400", "items: 8").replace("100", "4"))
    task = open_task(load_card(path), folder=None)
    source = task.card.in_domain
    assert isinstance(source, PhantomSource)
    assert tuple(task.card.classes) == PHANTOMS[source.phantom].regions
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 8,
        "validation": 4,
        "in_domain": 8,
        "other-scanner": 8,
    }
    for name, scanner in (("in_domain", "standard"), ("other-scanner", "other")):
        split, drawn = (
            task.splits[name],
            generate(source.phantom, split="test", items=8, scanner=scanner),
        )
        assert split.labels.shape == (8, 0)
        assert split.ids == drawn.ids
        np.testing.assert_array_equal(split.images, drawn.images)
        np.testing.assert_array_equal(split.masks, drawn.masks)

    outcome = bench("validate", path)
    assert outcome.code == 0, outcome.err
    assert "pixels: background " in outcome.out
    assert all(f"{name} 0.0%" not in outcome.out for name in task.card.classes)


def test_masks_are_refused_where_there_are_none() -> None:
    """A phantom without masks is refused with the names of those that have them."""
    source = PhantomSource(phantom="oct", split="test", items=1, truth="masks")
    with pytest.raises(InputError, match=r"truth: .*oct has no masks; .*: chest-xray, ct$"):
        loader.decode(source, None)


def test_classes_are_the_truth_unless_masks_are_asked_for() -> None:
    """A source gives the labels or the masks, with their names, and never both."""
    source = PhantomSource(phantom="ct", split="test", items=3)
    drawn, plain = generate("ct", split="test", items=3), loader.decode(source, None)
    assert plain.masks is None
    assert plain.label_names == list(PHANTOMS["ct"].classes)
    np.testing.assert_array_equal(plain.labels, drawn.labels)
    masked = loader.decode(source.model_copy(update={"truth": "masks"}), None)
    assert masked.masks is not None
    assert masked.labels.shape == (3, 0)
    assert masked.label_names == list(PHANTOMS["ct"].regions)
    np.testing.assert_array_equal(np.concatenate(list(masked.masks)), drawn.masks)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3)])
def test_neutral_scanner_changes_nothing(shape: tuple[int, ...]) -> None:
    """Without noise, a scanner of default settings returns the object itself."""
    image = generator(1).random(shape)
    taken = photograph(image, 2, Scanner(noise=0.0))
    np.testing.assert_allclose(taken, image, atol=1e-12)


def test_pose_moves_the_object() -> None:
    """A magnification of two doubles an object's width and keeps its centre."""
    image = np.zeros((64, 64))
    image[24:40, 24:40] = 1
    taken = photograph(image, 0, Scanner(noise=0.0, scale=(2.0, 2.0)))
    assert taken.sum() == pytest.approx(4 * image.sum(), rel=0.02)
    assert ndimage.center_of_mass(taken) == pytest.approx((31.5, 31.5))


def test_cast_scales_the_colours() -> None:
    """A colour cast is a gain for each colour; a grey image has none."""
    image = 0.5 * generator(1).random((16, 16, 3))
    device = Scanner(noise=0.0, cast=(0.5, 1.0, 1.5))
    taken = photograph(image, 2, device)
    np.testing.assert_allclose(taken, image * [0.5, 1.0, 1.5], atol=1e-12)
    grey = photograph(image[..., 0], 2, device)
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
