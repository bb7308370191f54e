"""Names of the graded corruptions of each domain, separate so that cards need no numpy.

The families are those of MedMNIST-C (Di Salvo, Doerrich and Ledig, 2024), which follows ImageNet-C
(Hendrycks and Dietterich, ICLR 2019): what goes wrong in the modality, then what goes wrong when
any image is stored. A new kind is one name here and one entry in ``medtransfer.corruptions``.
"""

from __future__ import annotations

# They would leave a grey image as it is, so only colour images take them.
COLOUR_KINDS = frozenset({"colour-cast", "saturation-down", "stain-shift"})

_DIGITAL = ("pixelation", "jpeg")

KINDS_BY_DOMAIN: dict[str, tuple[str, ...]] = {
    # A camera: its sensor, its lens, its exposure (the choice of ImageNet-C).
    "natural": (
        "gaussian-noise",
        "impulse-noise",
        "defocus-blur",
        "motion-blur",
        "brightness-up",
        "contrast-down",
        *_DIGITAL,
    ),
    # Few quanta, a large focal spot, breathing, scatter, another film curve or look-up table.
    "chest-xray": (
        "shot-noise",
        "gaussian-blur",
        "motion-blur",
        "contrast-down",
        "gamma-up",
        "gamma-down",
        *_DIGITAL,
    ),
    # Low dose, a miscalibrated detector, a smooth kernel, breathing, another window width.
    "ct": (
        "low-dose",
        "ring-artefact",
        "gaussian-blur",
        "motion-blur",
        "contrast-up",
        "contrast-down",
        *_DIGITAL,
    ),
    # Coherent light, a moving or misfocused eye, opaque media that weaken the signal.
    "oct": (
        "speckle-noise",
        "defocus-blur",
        "motion-blur",
        "brightness-down",
        "contrast-down",
        *_DIGITAL,
    ),
    # A badly placed flash, a small pupil, a cataract, a moving or misfocused eye.
    "fundus": (
        "vignette",
        "gaussian-noise",
        "defocus-blur",
        "motion-blur",
        "brightness-down",
        "contrast-down",
        "saturation-down",
        "jpeg",
    ),
    # Coherent sound, a wide beam, a moving probe, the gain knob, compression of the echoes.
    "ultrasound": (
        "speckle-noise",
        "gaussian-blur",
        "motion-blur",
        "brightness-up",
        "brightness-down",
        "contrast-down",
        *_DIGITAL,
    ),
    # Another laboratory's stain, an uneven lamp, a thick slide, hot pixels of the camera.
    "microscopy": (
        "stain-shift",
        "vignette",
        "impulse-noise",
        "defocus-blur",
        "brightness-up",
        "contrast-down",
        *_DIGITAL,
    ),
    # Hair, the rim of the lens, a hand-held camera and its white balance.
    "dermoscopy": (
        "hair",
        "dark-corners",
        "colour-cast",
        "saturation-down",
        "defocus-blur",
        "motion-blur",
        "brightness-up",
        "jpeg",
    ),
    # Light from the tip of the instrument, a wet or moving lens, blood and smoke.
    "endoscopy": (
        "vignette",
        "gaussian-noise",
        "defocus-blur",
        "motion-blur",
        "brightness-up",
        "contrast-down",
        "saturation-down",
        "jpeg",
    ),
    # Coil sensitivity, pulsation along the phase encoding, thermal noise, free scaling of values.
    "mri": (
        "bias-field",
        "ghosting",
        "gaussian-noise",
        "gaussian-blur",
        "contrast-down",
        "gamma-up",
        "gamma-down",
        "pixelation",
    ),
}

ALL_KINDS = frozenset(kind for kinds in KINDS_BY_DOMAIN.values() for kind in kinds)

# For a domain that is not listed: what can happen to any image, grey ones too.
_GENERIC = (
    "gaussian-noise",
    "gaussian-blur",
    "motion-blur",
    "brightness-up",
    "brightness-down",
    "contrast-down",
    *_DIGITAL,
)


def kinds_of(domain: str) -> tuple[str, ...]:
    """Return the kinds of corruption for a domain; a generic list for unlisted domains."""
    return KINDS_BY_DOMAIN.get(domain, _GENERIC)
