"""The phantoms: what a name promises about its images, whatever they look like."""

import numpy as np
import pytest
from scipy import ndimage

from medtransfer.data import phantoms
from medtransfer.data.phantoms import PHANTOMS, SPLITS, Scanner, acquire, generate

CASES = [(name, scanner) for name, kind in PHANTOMS.items() for scanner in kind.scanners]
FINDINGS = [
    (name, finding)
    for name in ("chest-xray", "ct", "oct")
    for finding in PHANTOMS[name].classes[1:]
]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_all_names_exist() -> None:
    """Everything the package exports is there, once."""
    assert len(set(phantoms.__all__)) == len(phantoms.__all__)
    assert all(hasattr(phantoms, name) for name in phantoms.__all__)


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
    assert labels.shape == (6,)
    assert len(ids) == 6
    spread = images.reshape(6, -1).astype(float).std(axis=1)
    assert spread.min() > 10


@pytest.mark.parametrize("items", [50, 400])
@pytest.mark.parametrize(("name", "scanner"), CASES)
def test_labels_follow_prevalence(
    name: str, scanner: str, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every prefix the classes have the scanner's shares, to within four items."""
    monkeypatch.setattr(phantoms, "acquire", lambda image, rng, scanner: image * 0)
    shares = PHANTOMS[name].prevalence[scanner]
    labels = generate(name, split="test", items=items, scanner=scanner, size=8).labels
    counts = np.bincount(labels, minlength=len(shares))
    assert np.abs(counts - items * np.array(shares)).max() <= 4


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
    """Each scanner has a prevalence, one share per class, all positive and adding up to one."""
    kind = PHANTOMS[name]
    assert set(kind.scanners) == set(kind.prevalence) == {"standard", "other"}
    for shares in kind.prevalence.values():
        assert len(shares) == len(kind.classes)
        assert min(shares) > 0
        assert sum(shares) == pytest.approx(1)


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
        changed = (
            np.abs(sick.image - normal.image).max(axis=tuple(range(2, sick.image.ndim))) > 0.05
        )
        assert not normal.mask.any()
        assert sick.mask.any()
        assert changed[sick.mask > 0].mean() > 0.3
        # Drusen lift the layers above them, so what may change is the columns they stand in.
        reach = sick.mask.any(axis=0) if finding == "drusen" else sick.mask > 0
        allowed = ndimage.binary_dilation(np.broadcast_to(reach, changed.shape), iterations=6)
        assert not (changed & ~allowed).any()


@pytest.mark.parametrize("name", PHANTOMS)
def test_drawings_lie_in_range(name: str) -> None:
    """Every class draws finite brightness in [0, 1] and a binary mask of the same height, width."""
    kind = PHANTOMS[name]
    for finding in kind.classes:
        drawing = kind.draw(generator(0), finding, 64)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chest-xry", "train", "standard"), r"unknown phantom 'chest-xry'; .*'chest-xray'"),
        (("ct", "trian", "standard"), r"unknown split 'trian'; .*'train'"),
        (("ct", "train", "othr"), r"unknown scanner 'othr'; .*'other'"),
        (("mri", "train", "other"), r"unknown phantom 'mri'; choose one of natural, .*oct"),
    ],
)
def test_unknown_names_say_what_would_work(arguments: tuple[str, str, str], message: str) -> None:
    """A misspelt name is refused with the name that was probably meant."""
    phantom, split, scanner = arguments
    with pytest.raises(ValueError, match=message):
        generate(phantom, split=split, scanner=scanner, items=1)
