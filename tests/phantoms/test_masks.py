"""Masks of phantoms: the same at every size, and where the organs are."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medtransfer.core.documents import packaged
from medtransfer.core.errors import InputError
from medtransfer.data.sources import phantom as loader
from medtransfer.data.store import open_task
from medtransfer.phantoms import PHANTOMS, Drawing, Phantom, Scanner, acquire, generate
from medtransfer.phantoms.canvas import ellipse, frame
from medtransfer.specs.source import PhantomSource
from medtransfer.specs.task import load_card
from tests.conftest import Bench
from tests.helpers.phantoms import CHEST, generator

MASK_DIGESTS = {"chest-xray": "5662f1973cbe769e", "ct": "9533e895510ccb78"}
# Smallest and largest share of a region's pixels, over the images of either scanner.
SHARES = {
    "chest-xray": {"lung": (0.15, 0.5), "heart": (0.03, 0.15)},
    "ct": {"liver": (0.03, 0.2), "spleen": (0.003, 0.04), "kidney": (0.01, 0.06)},
}
MASKED = [(name, scanner) for name in MASK_DIGESTS for scanner in PHANTOMS[name].scanners]
CARDS = ("chest_xray/phantom_lungs", "ct/phantom_organs")


def truth(kind: Phantom, name: str) -> str | frozenset[str]:
    """What a phantom's `draw` takes for an image with this class alone."""
    return frozenset([name]) if kind.multilabel else name


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
