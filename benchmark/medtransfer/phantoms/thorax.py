"""The anatomy of a frontal chest radiograph, and the machines that take it.

Bright is dense. Structures of a projection add up, so most are added rather than painted over.
"""

from dataclasses import dataclass

import numpy as np

from medtransfer.phantoms.canvas import (
    Field,
    Scanner,
    blend,
    cover,
    ellipse,
    frame,
    power_noise,
)

SCANNERS = {
    "standard": Scanner(rotation=(-3, 3), shift=0.03, quantum=0.025, noise=0.01),
    "other": Scanner(
        rotation=(-8, 8),
        scale=(0.85, 1.0),
        shift=0.04,
        blur=0.012,
        collimation=0.08,
        vignette=0.15,
        quantum=0.04,
        noise=0.015,
        window=(0.05, 0.85),
        gamma=(0.65, 0.85),
    ),
}


@dataclass(frozen=True)
class Lung:
    """The shape of one lung; lengths in half-widths of the image."""

    side: int  # -1 left in the image, 1 right
    centre: float
    width: float  # half of it
    top: float
    height: float
    dome: float  # where the diaphragm stands highest

    def outline(
        self, x: Field, y: Field, *, shift: tuple[float, float] = (0.0, 0.0), share: float = 1.0
    ) -> Field:
        """Return the signed distance (H, W) to the lung without its diaphragm.

        A `share` below 1 shrinks it, `shift` moves it.
        """
        # An apex narrower than the base: the ellipse is stretched sideways towards the bottom.
        taper = 0.82 + 0.22 * (y - self.top) / self.height
        centre = (shift[0], self.top + 0.62 * self.height + shift[1])
        radii = (share * self.width, share * 0.64 * self.height)
        return ellipse((x - self.centre) / taper, y, centre, radii)

    def diaphragm(self, x: Field, y: Field) -> Field:
        """Return the height (H, W) above the diaphragm, negative below it."""
        bow: Field = 0.7 * (x - self.centre + 0.05 * self.side) ** 2 / self.width
        return self.dome + bow - y


@dataclass(frozen=True)
class Thorax:
    """A chest without findings; fields are (H, W)."""

    middle: float  # x of the spine
    both: tuple[Lung, Lung]
    lungs: Field  # coverage of both
    heart: Field  # coverage
    mediastinum: Field  # coverage
    lung: float  # brightness of the lungs
    soft: float  # brightness of soft tissue
    backdrop: Field  # brightness behind the heart
    image: Field  # brightness of everything
    body: Field  # coverage
    gain: float
    lift: float

    def silhouette(self, heart: Field) -> Field:
        """Return the brightness (H, W) with a heart of this coverage, without bones and vessels."""
        return _silhouette(self.backdrop, self.soft, np.maximum(heart, self.mediastinum))

    def expose(self, finding: Field) -> Field:
        """Return the radiograph (H, W) in [0, 1] with the brightness of a finding added."""
        image = (self.image + finding) * self.gain + self.lift
        exposed: Field = np.clip(0.04 + self.body * image, 0, 1)
        return exposed


def draw_thorax(rng: np.random.Generator, size: int) -> Thorax:
    """Draw the anatomy of one chest."""
    x, y = frame(size)
    middle = rng.uniform(-0.06, 0.06)
    out = x - middle
    wall = rng.uniform(0.88, 0.98)
    shoulders = 0.5 * np.clip(-0.55 - y, 0, 1) ** 2
    body = cover(np.abs(out) - wall + 1.2 * shoulders, edge=0.05)
    both = _lungs(rng, middle)
    lungs, abdomen = np.zeros_like(x), np.zeros_like(x)
    for side in both:
        diaphragm = side.diaphragm(x, y)
        shape = np.maximum(side.outline(x, y), -diaphragm)
        lungs = np.maximum(lungs, cover(shape, edge=0.06))
        abdomen = np.where(out * side.side > 0, cover(diaphragm, edge=0.06), abdomen)

    heart_at = (middle + rng.uniform(0.1, 0.18), rng.uniform(0.22, 0.36))
    heart_size = (rng.uniform(0.3, 0.44), rng.uniform(0.22, 0.29))
    heart = cover(ellipse(x, y, heart_at, heart_size, rng.uniform(0.5, 0.9)), edge=0.06)
    flare = rng.uniform(0.1, 0.15) + 0.05 * np.cos(3 * y + rng.uniform(-1, 1))
    mediastinum = cover(np.abs(out) - flare, edge=0.08)
    hila = sum(
        cover(ellipse(x, y, (middle + s * 0.22, rng.uniform(-0.1, 0.08)), (0.09, 0.15)), edge=0.16)
        for s in (-1, 1)
    )
    vertebrae = 0.8 + 0.2 * np.cos(2 * np.pi * y / 0.17)
    spine = cover(np.abs(out) - 0.085, edge=0.03) * vertebrae
    collar = rng.uniform(-0.72, -0.62)
    clavicles = sum(
        cover(
            _segment(x, y, (middle + s * 0.1, collar + 0.1), (middle + s * 0.75, collar - 0.1))
            - 0.03,
            edge=0.04,
        )
        for s in (-1, 1)
    )
    bubble_at = (middle + rng.uniform(0.35, 0.5), rng.uniform(0.75, 0.9))
    bubble = abdomen * cover(ellipse(x, y, bubble_at, (0.13, 0.08)), edge=0.08)

    lung, soft = rng.uniform(0.14, 0.3), rng.uniform(0.48, 0.58)
    backdrop = blend(np.full_like(x, soft), lung, lungs)
    backdrop = blend(backdrop, rng.uniform(0.6, 0.72), abdomen) - rng.uniform(0.0, 0.3) * bubble
    image = _silhouette(backdrop, soft, np.maximum(heart, mediastinum))
    image = image + rng.uniform(0.06, 0.14) * np.asarray(hila) * lungs
    image = image + 0.14 * spine + rng.uniform(0.07, 0.13) * _ribs(rng, x, y, middle)
    image = image + 0.12 * np.asarray(clavicles)
    markings = rng.uniform(0.02, 0.045) * power_noise(rng, size, exponent=2.2)
    image = image + markings + rng.uniform(-0.1, 0.1) * x + rng.uniform(-0.06, 0.06) * y
    return Thorax(
        middle=middle,
        both=both,
        lungs=lungs,
        heart=heart,
        mediastinum=mediastinum,
        lung=lung,
        soft=soft,
        backdrop=backdrop,
        image=image,
        body=body,
        gain=rng.uniform(0.85, 1.15),
        lift=rng.uniform(-0.06, 0.06),
    )


def _silhouette(backdrop: Field, soft: float, middle: Field) -> Field:
    """Return the brightness (H, W) with heart and mediastinum, a coverage, before the backdrop."""
    brightness: Field = np.maximum(backdrop, (soft + 0.08) * middle)
    return brightness


def _segment(x: Field, y: Field, start: tuple[float, float], end: tuple[float, float]) -> Field:
    """Return the distance (H, W) to the straight line between two points."""
    ex, ey = end[0] - start[0], end[1] - start[1]
    dx, dy = x - start[0], y - start[1]
    along = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
    distance: Field = np.hypot(dx - along * ex, dy - along * ey)
    return distance


def _lungs(rng: np.random.Generator, middle: float) -> tuple[Lung, Lung]:
    """Return the lungs on the left and on the right of the image."""
    top, height = rng.uniform(-0.88, -0.72), rng.uniform(1.25, 1.45)

    def lung(side: int) -> Lung:
        centre = middle + side * rng.uniform(0.42, 0.47)
        width = rng.uniform(0.29, 0.35)
        dome = top + height + rng.uniform(-0.1, 0.06) + 0.05 * side
        return Lung(side=side, centre=centre, width=width, top=top, height=height, dome=dome)

    return lung(-1), lung(1)


def _ribs(rng: np.random.Generator, x: Field, y: Field, middle: float) -> Field:
    """Return the brightness of the ribs: posterior arches, and fainter anterior ones."""
    out = np.abs(x - middle)
    spacing, phase = rng.uniform(0.2, 0.26), rng.random(2)
    bend = rng.uniform(0.35, 0.6)
    ribs = np.zeros_like(x)
    for slope, weight, start in ((bend, 1.0, phase[0]), (-0.9 * bend, 0.5, phase[1])):
        curve = slope * (out - 0.15) * (1 if slope < 0 else 1.4 * out - 0.1)
        across = np.abs((y - curve) / spacing + start - np.round((y - curve) / spacing + start))
        ribs = ribs + weight * cover((across - 0.17) * spacing, edge=0.05)
    brightness: Field = ribs * cover(out - 0.84, edge=0.1) * cover(0.1 - out, edge=0.06)
    return brightness
