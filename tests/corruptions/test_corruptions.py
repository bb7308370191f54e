"""Graded corruptions: what every kind promises, and each kind against an independent account."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import ndimage

from medtransfer import corruptions
from medtransfer.corruptions import CORRUPTIONS, corrupt
from medtransfer.phantoms import PHANTOMS, generate
from medtransfer.specs.corruptions import COLOUR_KINDS, KINDS_BY_DOMAIN, kinds_of

Pixels = NDArray[np.uint8]
SEVERITIES = (1, 2, 3, 4, 5)
GREY_DOMAINS = ("chest-xray", "ct", "oct", "ultrasound", "mri")
# They depend on nothing but the image.
FIXED = {
    "gaussian-blur",
    "defocus-blur",
    "brightness-up",
    "brightness-down",
    "contrast-up",
    "contrast-down",
    "gamma-up",
    "gamma-down",
    "saturation-down",
    "dark-corners",
    "pixelation",
    "jpeg",
}


@lru_cache
def varied(kind: str, size: int = 64) -> tuple[Pixels, ...]:
    """Phantoms of every sort that the kind may meet, and tiles on a gradient."""
    names = [n for n, phantom in PHANTOMS.items() if phantom.channels == 3 or grey(kind)]
    images = [image for n in names for image in generate(n, split="test", items=2, size=size)[0]]
    ramp = np.linspace(20, 235, size)[None, :, None] + np.linspace(-20, 20, size)[:, None, None]
    tiles = np.indices((size, size)).sum(0) // (size // 7) % 2 * 30
    tinted = (ramp + tiles[..., None]).clip(0, 255) * np.array([1.0, 0.7, 0.9])
    return (*images, (tinted.mean(2) if grey(kind) else tinted).astype(np.uint8))


def grey(kind: str) -> bool:
    """Whether the kind takes grey images."""
    return kind not in COLOUR_KINDS


def chest(size: int = 64) -> Pixels:
    """A grey phantom."""
    return generate("chest-xray", split="test", items=1, size=size).images[0]


def flat(value: int, *, kind: str = "jpeg", shape: tuple[int, int] = (64, 64)) -> Pixels:
    """A constant image, in colour only where the kind asks for it."""
    return np.full(shape if grey(kind) else (*shape, 3), value, np.uint8)


def point(size: int = 63) -> Pixels:
    """One white pixel on black."""
    image = flat(0, shape=(size, size))
    image[size // 2, size // 2] = 255
    return image


def spot() -> Pixels:
    """A bright spot that is a few pixels wide."""
    image = ndimage.gaussian_filter(point().astype(float), 3)
    return (image / image.max() * 255).astype(np.uint8)


def change(image: Pixels, *, kind: str, severity: int, seed: int = 0) -> float:
    """The mean absolute change of the pixels."""
    after = corrupt(image, kind=kind, severity=severity, seed=seed)
    return float(np.abs(after.astype(float) - image).mean())


def residual(image: Pixels, *, kind: str, severity: int, seed: int = 0) -> NDArray[np.float64]:
    """What the corruption added, in shares of white."""
    return (corrupt(image, kind=kind, severity=severity, seed=seed).astype(float) - image) / 255


def strength(kind: str, severity: int) -> float:
    return CORRUPTIONS[kind].strengths[severity - 1]


def spread(image: Pixels) -> NDArray[np.float64]:
    """Variances of the brightness along the rows' and the columns' axis, in squared pixels."""
    weight = image / image.sum(dtype=float)
    places = np.indices(image.shape)
    centre = (places * weight).sum((1, 2), keepdims=True)
    moments: NDArray[np.float64] = ((places - centre) ** 2 * weight).sum((1, 2))
    return moments


def test_all_names_exist() -> None:
    """Everything the package exports is there, once."""
    assert len(set(corruptions.__all__)) == len(corruptions.__all__)
    assert all(hasattr(corruptions, name) for name in corruptions.__all__)


def test_domains_and_kinds_fit() -> None:
    """Every kind of a domain exists, every kind that exists tests some domain."""
    assert set().union(*KINDS_BY_DOMAIN.values()) == set(CORRUPTIONS)
    assert set(CORRUPTIONS) > COLOUR_KINDS
    for domain, kinds in KINDS_BY_DOMAIN.items():
        assert 6 <= len(kinds) <= 8, domain
        assert len(set(kinds)) == len(kinds), domain
        assert kinds_of(domain) == kinds


def test_grey_domains_need_no_colour() -> None:
    """A domain of grey images, or an unknown one, is never tested with a kind that needs colour."""
    for domain in (*GREY_DOMAINS, "thermography"):
        assert set(kinds_of(domain)) <= set(CORRUPTIONS) - COLOUR_KINDS, domain
        assert len(kinds_of(domain)) >= 6


def test_card_is_checked_without_numpy() -> None:
    """The names import nothing heavy."""
    code = "import medtransfer.specs.corruptions, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_form_is_kept(kind: str) -> None:
    """Any shape goes in, constant images too; the same shape and type come out of a copy."""
    for shape in ((28, 28), (40, 56), (57, 33)):
        for value in (0, 128, 255):
            for image in (flat(value, kind=kind, shape=shape), np.full((*shape, 3), value, "u1")):
                before = image.copy()
                after = corrupt(image, kind=kind, severity=5, seed=1)
                assert after.shape == image.shape
                assert after.dtype == np.uint8
                np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_only_the_seed_is_random(kind: str) -> None:
    """Equal seeds give equal images whatever the global generator does, and leave it alone."""
    image = varied(kind)[0]
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is tested
    first = corrupt(image, kind=kind, severity=3, seed=7)
    state = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert state == np.random.random()  # noqa: NPY002
    np.testing.assert_array_equal(first, corrupt(image, kind=kind, severity=3, seed=7))
    others = [corrupt(image, kind=kind, severity=3, seed=seed) for seed in range(8, 14)]
    assert (kind in FIXED) == all(np.array_equal(first, other) for other in others)


def digest_all() -> str:
    """One hash of every kind's image."""
    whole = hashlib.sha256()
    for kind in CORRUPTIONS:
        whole.update(corrupt(varied(kind)[1], kind=kind, severity=4, seed=5).tobytes())
    return whole.hexdigest()


def test_processes_agree() -> None:
    """Another process, with other hashes of strings, corrupts in the same way."""
    code = "from tests.corruptions.test_corruptions import digest_all; print(digest_all())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest_all()


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severity_grows(kind: str, size: int) -> None:
    """Every severity changes every image, and each one more than the one before."""
    changes = np.array(
        [[change(image, kind=kind, severity=s) for s in SEVERITIES] for image in varied(kind, size)]
    )
    assert changes.min() > 0
    growth = np.diff(changes.mean(axis=0)) / changes.mean(axis=0)[:-1]
    assert growth.min() > 0.05, changes.mean(axis=0)


@pytest.mark.parametrize(
    "kind",
    ["gaussian-noise", "shot-noise", "speckle-noise", "low-dose", "ring-artefact", "ghosting"],
)
def test_severities_share_one_field(kind: str) -> None:
    """The noise of an image is one field, scaled: its pattern is the same at every severity."""
    image = varied(kind)[0] // 2 + 64  # away from black and white, where noise is cut off
    weak, strong = (residual(image, kind=kind, severity=s).ravel() for s in (2, 4))
    assert np.corrcoef(weak, strong)[0, 1] > 0.97


@pytest.mark.parametrize("kind", ["impulse-noise", "hair", "dark-corners", "vignette"])
def test_what_is_hit_stays_hit(kind: str) -> None:
    """What covers an image covers at least as much of it at the next severity."""
    covered = [residual(flat(200), kind=kind, severity=s) != 0 for s in SEVERITIES]
    for less, more in pairwise(covered):
        assert not (less & ~more).any()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_strength_is_relative_to_the_size(kind: str) -> None:
    """A severity means about the same at 64 and at 128 px."""
    small, large = (
        np.mean([change(image, kind=kind, severity=3) for image in varied(kind, size)])
        for size in (64, 128)
    )
    assert 1 / 2 < small / large < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gausian-noise"}, "unknown corruption .*did you mean 'gaussian-noise'"),
        ({"severity": 0}, "unknown severity 0"),
        ({"severity": 6}, "unknown severity 6"),
        ({"image": np.zeros((9, 9))}, "an image is uint8"),
        ({"image": np.zeros((2, 9, 9, 3), np.uint8)}, "an image is uint8"),
        ({"image": np.zeros((9, 9, 4), np.uint8)}, "an image is uint8"),
    ],
)
def test_wrong_input_is_named(changes: dict[str, object], message: str) -> None:
    """What is unknown or no image raises, and says what would be right."""
    right: dict[str, object] = {
        "image": flat(9),
        "kind": "gaussian-noise",
        "severity": 3,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        corrupt(**(right | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(COLOUR_KINDS))
def test_colour_kinds_refuse_grey(kind: str) -> None:
    """A kind that does nothing to grey raises instead of giving the image back."""
    with pytest.raises(ValueError, match="grey"):
        corrupt(flat(100), kind=kind, severity=3, seed=0)
    tinted = np.dstack([flat(150), flat(90), flat(170)])
    assert change(tinted, kind=kind, severity=1) > 0


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("gaussian-noise", lambda strength, value: strength),
        ("low-dose", lambda strength, value: strength),
        ("shot-noise", lambda strength, value: np.sqrt(value / strength)),
        ("speckle-noise", lambda strength, value: strength * value),
    ],
)
@pytest.mark.parametrize("value", [100, 150])
def test_noise_has_the_stated_deviation(kind: str, deviation: object, value: int) -> None:
    """The noise's deviation follows its law of strength and brightness; its mean is 0."""
    image = flat(value, shape=(200, 200))
    noise = residual(image, kind=kind, severity=2)
    expected = deviation(strength(kind, 2), value / 255)  # type: ignore[operator]
    assert noise.std() == pytest.approx(expected, rel=0.03)
    assert abs(noise.mean()) < 0.04 * expected


def test_spectra_of_noise() -> None:
    """Detector noise is white; that of a low dose grows with the frequency, and it has streaks.

    Streaks are directions with far more power than others.
    """
    fy, fx = np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij")
    cycles = 128 * np.hypot(fy, fx)
    coarse, fine = ((cycles > low) & (cycles < 2 * low) for low in (2, 8))
    sector = (np.arctan2(fy, fx) / np.pi % 1 * 12).astype(int) % 12
    tilt, contrast = {}, {}
    for kind in ("gaussian-noise", "low-dose"):
        field = residual(flat(128, shape=(128, 128)), kind=kind, severity=2)
        power = np.abs(np.fft.fft2(field)) ** 2
        tilt[kind] = power[fine].mean() / power[coarse].mean()
        sectors = [power[fine & (sector == k)].mean() for k in range(12)]
        contrast[kind] = max(sectors) / min(sectors)
    assert 0.6 < tilt["gaussian-noise"] < 1.6
    assert 1.7 < tilt["low-dose"] < 5
    assert contrast["gaussian-noise"] < 2.5
    assert contrast["low-dose"] > 5


def test_impulses_are_black_or_white() -> None:
    """The stated share of the pixels is black or white, about half of them each."""
    after = corrupt(flat(128, shape=(200, 200)), kind="impulse-noise", severity=5, seed=2)
    assert set(np.unique(after)) == {0, 128, 255}
    assert (after != 128).mean() == pytest.approx(strength("impulse-noise", 5), rel=0.1)
    assert (after == 0).sum() == pytest.approx((after == 255).sum(), rel=0.15)


def test_rings_are_round() -> None:
    """A ring artefact is the same after a quarter turn and in the mirror, and is not constant."""
    rings = corrupt(flat(128), kind="ring-artefact", severity=4, seed=3)
    np.testing.assert_array_equal(rings, np.rot90(rings))
    np.testing.assert_array_equal(rings, rings[::-1])
    assert rings.std() > 5


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_agrees_with_scipy(severity: int) -> None:
    """In the middle of a smooth image, the blur is scipy's with the stated share of the width."""
    image = ndimage.gaussian_filter(chest(128), 1.5)
    ours = corrupt(image, kind="gaussian-blur", severity=severity, seed=0)
    sigma = 128 * strength("gaussian-blur", severity)
    theirs = ndimage.gaussian_filter(image.astype(float), sigma, mode="reflect", truncate=6)
    np.testing.assert_allclose(ours, theirs, atol=1.5)


def test_blurs_have_the_stated_width() -> None:
    """A point's variance is r² / 4 on each axis for a disc and L² / 12 in all for a movement."""
    image = spot()
    disc, moved = (
        spread(corrupt(image, kind=kind, severity=5, seed=1)) - spread(image)
        for kind in ("defocus-blur", "motion-blur")
    )
    radius, length = (63 * strength(kind, 5) for kind in ("defocus-blur", "motion-blur"))
    np.testing.assert_allclose(disc, radius**2 / 4, rtol=0.1)
    assert moved.sum() == pytest.approx(length**2 / 12, rel=0.1)


def test_motion_goes_one_way() -> None:
    """Across its direction a movement blurs nothing; the direction differs between images."""
    before = spread(spot())
    turns = []
    for seed in range(12):
        after = corrupt(spot(), kind="motion-blur", severity=5, seed=seed)
        places = np.indices(after.shape).reshape(2, -1)
        across, along = np.linalg.eigvalsh(np.cov(places, aweights=after.ravel()))
        assert across == pytest.approx(before[0], rel=0.1)
        assert along > 1.5 * across
        turns.append((spread(after) - before)[0])
    assert max(turns) > 4 * min(turns)


@pytest.mark.parametrize("kind", ["gaussian-blur", "defocus-blur", "motion-blur", "pixelation"])
def test_blur_keeps_brightness(kind: str) -> None:
    """An average adds nothing: the mean stays, constants stay, and the extremes do not grow."""
    for image in varied(kind):
        after = corrupt(image, kind=kind, severity=4, seed=2)
        assert after.mean() == pytest.approx(image.mean(), abs=2)
        assert after.std() < image.std()
    for value in (0, 77, 255):
        np.testing.assert_array_equal(
            corrupt(flat(value), kind=kind, severity=5, seed=2), flat(value)
        )


def test_opposite_edges_do_not_mix() -> None:
    """What lies at one edge is not seen at the other after the strongest blur."""
    image = flat(0, shape=(48, 80))
    image[:, :10] = image[:6] = 255
    for kind in ("gaussian-blur", "defocus-blur", "motion-blur"):
        for seed in range(4):
            assert corrupt(image, kind=kind, severity=5, seed=seed)[-8:, -8:].max() <= 2


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [48, 100])
def test_pixelation_makes_blocks(severity: int, size: int) -> None:
    """Every block is constant and the mean of what it covers; its size is a share of the width."""
    image = chest(size)
    after = corrupt(image, kind="pixelation", severity=severity, seed=0)
    rows = np.flatnonzero(np.r_[True, (np.diff(after.astype(int), axis=0) != 0).any(1), True])
    columns = np.flatnonzero(np.r_[True, (np.diff(after.astype(int), axis=1) != 0).any(0), True])
    blocks = round(size / (1 + size * strength("pixelation", severity)))
    assert len(rows) - 1 == len(columns) - 1 == blocks
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            block = after[top:bottom, left:right]
            assert block.min() == block.max()
            assert block[0, 0] == pytest.approx(image[top:bottom, left:right].mean(), abs=0.51)


@pytest.mark.parametrize("phantom", ["natural", "ct"])
def test_jpeg_is_pillows(phantom: str) -> None:
    """The image is what Pillow reads back after storing it at the stated quality."""
    image = generate(phantom, split="test", items=1).images[0]
    for severity in SEVERITIES:
        stored = io.BytesIO()
        PillowImage.fromarray(image).save(stored, "JPEG", quality=int(strength("jpeg", severity)))
        expected = np.asarray(PillowImage.open(stored))
        after = corrupt(image, kind="jpeg", severity=severity, seed=0)
        np.testing.assert_array_equal(after, expected)


def test_tones_follow_their_curves() -> None:
    """Brightness, contrast and gamma map every grey value as their formulas say."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    v, mean = values / 255, 0.5
    for severity in SEVERITIES:
        for direction in ("up", "down"):
            curves = {
                "brightness": lambda s: v * s,
                "contrast": lambda s: mean + s * (v - mean),
                "gamma": lambda s: v**s,
            }
            for name, curve in curves.items():
                kind = f"{name}-{direction}"
                after = corrupt(values, kind=kind, severity=severity, seed=0)
                expected = 255 * np.clip(curve(strength(kind, severity)), 0, 1)
                np.testing.assert_allclose(after, expected, atol=0.51)


@pytest.mark.parametrize(
    ("kind", "brighter"),
    [
        ("brightness-up", True),
        ("brightness-down", False),
        ("gamma-up", False),
        ("gamma-down", True),
    ],
)
def test_tones_go_the_stated_way(kind: str, brighter: bool) -> None:
    """The name says which way; for gamma it is the exponent that goes up."""
    assert (corrupt(flat(120), kind=kind, severity=1, seed=0)[0, 0] > 120) == brighter


def test_saturation_ends_in_grey() -> None:
    """Severity 5 has no colour left, and its grey is Pillow's."""
    image = generate("natural", split="test", items=1).images[0]
    after = corrupt(image, kind="saturation-down", severity=5, seed=0)
    expected = np.asarray(PillowImage.fromarray(image).convert("L"))
    np.testing.assert_allclose(after, np.dstack([expected] * 3), atol=1)


def test_cast_keeps_green() -> None:
    """A cast makes red and blue change in opposite ways; over seeds both ways occur."""
    casts = [
        residual(np.full((9, 9, 3), 128, "u1"), kind="colour-cast", severity=3, seed=s)
        for s in range(8)
    ]
    for cast in casts:
        assert not cast[..., 1].any()
        assert (cast[..., 0] == -cast[..., 2]).all()
    assert {np.sign(cast[0, 0, 0]) for cast in casts} == {-1.0, 1.0}


def test_stains_change_by_their_share() -> None:
    """Glass stays white; one pure stain's density rises by a share, the other's falls by it."""
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    image = np.full((3, 8, 3), 255, np.uint8)
    image[1:] = np.rint(255 * np.exp(-0.8 * np.array([[haematoxylin], [eosin]])))
    before = np.log(image[1:, 0, 1] / 255)
    for seed in range(4):
        after = corrupt(image, kind="stain-shift", severity=3, seed=seed)
        assert (after[0] == 255).all()
        shares = np.log(after[1:, 0, 1] / 255) / before - 1
        expected = strength("stain-shift", 3) * np.array([1, -1]) * np.sign(shares[0])
        np.testing.assert_allclose(shares, expected, atol=0.02)


def test_bias_field_is_smooth_and_bounded() -> None:
    """Values change by at most exp(+-strength), reach that bound, and vary slowly."""
    gain = np.log(corrupt(flat(60), kind="bias-field", severity=3, seed=4) / 60)
    assert abs(gain).max() == pytest.approx(strength("bias-field", 3), abs=0.02)
    assert max(abs(np.diff(gain, axis=axis)).max() for axis in (0, 1)) < 0.2
    assert gain.std() > 0.1


def test_ghosts_are_copies() -> None:
    """A point keeps a share of its signal and gives the rest to two ghosts, evenly."""
    s = strength("ghosting", 5)
    for seed in range(4):
        after = corrupt(point(), kind="ghosting", severity=5, seed=seed)
        rows, columns = np.nonzero(after)
        assert len(rows) == 3
        assert len(set(rows)) == 1 or len(set(columns)) == 1
        assert sorted(after[rows, columns]) == pytest.approx(
            [255 * s / 2, 255 * s / 2, 255 * (1 - s)], abs=1
        )
        distances = np.ptp(np.r_[rows, columns].reshape(2, 3), axis=1).max() / 2
        assert 63 / 6 - 1 < distances < 63 / 3 + 1


def test_light_falls_off_from_one_place() -> None:
    """A vignette is brightest at a place off the centre and darkens away from it."""
    peaks = set()
    for seed in range(4):
        light = corrupt(flat(200), kind="vignette", severity=4, seed=seed).astype(int)
        row, column = np.unravel_index(light.argmax(), light.shape)
        assert (np.diff(light[row, column:]) <= 0).all()
        assert (np.diff(light[row:, column]) <= 0).all()
        assert light.min() < 100 < 195 < light.max()
        peaks.add((row, column))
    assert len(peaks) == 4


def test_corners_are_black_and_the_centre_is_not() -> None:
    """The rim has the stated radius: outside it all is black, inside it nothing changes."""
    image = chest()
    after = corrupt(image, kind="dark-corners", severity=5, seed=0)
    y, x = (np.indices(image.shape) + 0.5) / 32 - 1
    distance, radius = np.hypot(x, y), strength("dark-corners", 5)
    assert not after[distance > radius + 0.03].any()
    inside = distance < radius - 0.03
    np.testing.assert_array_equal(after[inside], image[inside])


def test_hair_is_thin_and_dark() -> None:
    """A hair covers about a hundredth of the width, in colour as in grey, at any size."""
    for size in (28, 64, 224):
        image = np.full((size, size, 3), 200, np.uint8)
        one = residual(image, kind="hair", severity=1, seed=6)
        assert one.max() <= 0
        assert 0.002 < -one.mean() < 0.02
    assert corrupt(image, kind="hair", severity=5, seed=6).min() < 40
