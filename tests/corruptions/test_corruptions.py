"""Graded corruptions: what every kind promises."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from medtransfer import corruptions
from medtransfer.corruptions import CORRUPTIONS, corrupt
from medtransfer.specs.corruptions import COLOUR_KINDS, KINDS_BY_DOMAIN, kinds_of
from tests.helpers.corruptions import SEVERITIES, Pixels, flat, residual, varied

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


def change(image: Pixels, *, kind: str, severity: int, seed: int = 0) -> float:
    """The mean absolute change of the pixels."""
    after = corrupt(image, kind=kind, severity=severity, seed=seed)
    return float(np.abs(after.astype(float) - image).mean())


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
