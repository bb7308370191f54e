"""A frontal chest radiograph with any number of findings, each of its own place and density.

Each finding has its own generator: it looks the same whatever else the image shows.
"""

import numpy as np

from medtransfer.phantoms.canvas import (
    Drawing,
    Field,
    Phantom,
    cover,
    discs,
    ellipse,
    frame,
    place_within,
)
from medtransfer.phantoms.chest_xray import draw_opacities
from medtransfer.phantoms.thorax import SCANNERS, Lung, Thorax, draw_thorax


def _nodules(rng: np.random.Generator, thorax: Thorax) -> Field:
    """Return one or two small, round, well-defined densities in the lungs."""
    lungs = thorax.lungs * (1 - thorax.heart)
    x, y = frame(lungs.shape[0])
    count = rng.integers(1, 3)
    places = np.array([place_within(rng, lungs) for _ in range(count)])
    distance = discs(x, y, places, rng.uniform(0.06, 0.1, count))
    nodules: Field = rng.uniform(0.22, 0.36) * cover(distance, edge=0.06)
    return nodules


def _effusion(rng: np.random.Generator, thorax: Thorax) -> Field:
    """Return fluid above one diaphragm or both; its surface climbs along the outer wall."""
    x, y = frame(thorax.lungs.shape[0])
    sides = thorax.both if rng.random() < 0.3 else (_either(rng, thorax),)
    fluid = np.zeros_like(x)
    for lung in sides:
        outwards = np.clip((x - lung.centre) * lung.side / lung.width + 0.4, 0, None)
        surface = lung.dome + rng.uniform(-0.16, 0.06) - 0.22 * outwards**2
        own_half = (x - thorax.middle) * lung.side > 0
        fluid = np.maximum(fluid, cover(surface - y, edge=0.08) * own_half)
    density = rng.uniform(0.75, 1.0) * (thorax.soft - thorax.lung)
    effusion: Field = density * fluid * thorax.lungs * (1 - thorax.heart)
    return effusion


def _cardiomegaly(rng: np.random.Generator, thorax: Thorax) -> Field:
    """Return what a heart wider than half of the chest adds to the normal one."""
    x, y = frame(thorax.lungs.shape[0])
    centre = (thorax.middle + rng.uniform(0.14, 0.2), rng.uniform(0.24, 0.36))
    radii = (rng.uniform(0.44, 0.54), rng.uniform(0.29, 0.36))
    large = cover(ellipse(x, y, centre, radii, rng.uniform(0.4, 0.7)), edge=0.06)
    added: Field = thorax.silhouette(np.maximum(thorax.heart, large)) - thorax.silhouette(
        thorax.heart
    )
    return added


def _pneumothorax(rng: np.random.Generator, thorax: Thorax) -> Field:
    """Return free air around a lung that has shrunk towards its root, and the line of its edge."""
    x, y = frame(thorax.lungs.shape[0])
    lung = _either(rng, thorax)
    share = rng.uniform(0.68, 0.86)
    shift = (-0.8 * lung.side * (1 - share) * lung.width, 0.5 * (1 - share) * lung.height)
    pleura = lung.outline(x, y, shift=shift, share=share)
    own_half = (x - thorax.middle) * lung.side > 0
    chest = thorax.lungs * own_half * (1 - thorax.heart)
    air = chest * cover(-pleura, edge=0.03)
    line = chest * cover(np.abs(pleura) - 0.012)
    collapsed = chest * (1 - air)
    density: Field = rng.uniform(0.02, 0.045) * collapsed + 0.1 * line
    return density - rng.uniform(0.4, 0.7) * thorax.lung * air


def _either(rng: np.random.Generator, thorax: Thorax) -> Lung:
    return thorax.both[int(rng.integers(2))]


FINDINGS = {
    "opacity": draw_opacities,
    "effusion": _effusion,
    "cardiomegaly": _cardiomegaly,
    "nodule": _nodules,
    "pneumothorax": _pneumothorax,
}


def draw(rng: np.random.Generator, findings: frozenset[str], size: int) -> Drawing:
    """Draw one chest radiograph with the findings named, (size, size)."""
    thorax = draw_thorax(rng, size)
    seeds = rng.integers(2**63, size=len(FINDINGS))
    density, mask = np.zeros_like(thorax.lungs), np.zeros((size, size), np.uint8)
    for (name, finding), seed in zip(FINDINGS.items(), seeds, strict=True):
        if name in findings:
            added = finding(np.random.Generator(np.random.PCG64(int(seed))), thorax)
            density = density + added
            mask |= np.abs(added) > 0.05
    return Drawing(thorax.expose(density), mask)


PHANTOM = Phantom(
    classes=tuple(FINDINGS),
    channels=1,
    scanners=SCANNERS,
    prevalence={
        "standard": (0.3, 0.22, 0.16, 0.1, 0.06),
        "other": (0.2, 0.12, 0.24, 0.08, 0.1),
    },
    draw=draw,
    multilabel=True,
)
