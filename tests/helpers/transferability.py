"""Scores of transferability, and features with labels to score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtransfer.specs.protocol import load_protocol
from medtransfer.transferability.registry import registered_scores

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SCORES = registered_scores()
SETTINGS = load_protocol("v1").scores


def draw(
    seed: int, *, items: int = 60, width: int = 8, classes: int = 3
) -> tuple[Floats, Integers]:
    """Features that say something of their labels, on a sphere as the encoders' are."""
    generator = np.random.default_rng(seed)
    labels = np.arange(items) % classes
    features = (
        generator.normal(size=(items, width)) + generator.normal(size=(classes, width))[labels]
    )
    return features * np.sqrt(width) / np.linalg.norm(features, axis=1, keepdims=True), labels
