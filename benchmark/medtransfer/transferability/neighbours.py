"""Nearest neighbours: accuracy of a classifier without training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtransfer.transferability.arrays import Floats, Integers, classes_of, spread
from medtransfer.transferability.registry import Undefined, register_score

_ROWS = 2048


@register_score(
    title="Balanced accuracy of the nearest other image",
    paper="Cover, Hart: Nearest neighbor pattern classification, 1967; as a score in Meiseles, "
    "Rokach: Source model selection for deep learning in the time series domain, 2020",
)
def neighbours(features: Floats, labels: Integers, *, most: int = 10_000) -> float:
    """Compute the balanced accuracy of leave-one-out nearest neighbours.

    By cosine similarity; of equally near images the first counts.

    Args:
        features: (N, D).
        labels: (N,).
        most: Largest number of classified images, evenly spaced; each has all others as neighbours.

    Raises:
        Undefined: With one class only, or features of length zero.
    """
    classes, counts = classes_of(labels)
    lengths = np.linalg.norm(features, axis=1)
    if (lengths == 0).any():
        raise Undefined("an image's features are all zero")
    # Half the time of double precision, which matters only between nearly equal neighbours.
    unit: NDArray[np.float32] = (features / lengths[:, None]).astype(np.float32)
    asked = spread(len(classes), most)
    right = np.zeros(len(classes), bool)
    for start in range(0, len(asked), _ROWS):
        rows = asked[start : start + _ROWS]
        cosine = unit[rows] @ unit.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        right[rows] = classes[cosine.argmax(axis=1)] == classes[rows]
    counts = np.bincount(classes[asked], minlength=len(counts))
    hits = np.bincount(classes[asked], weights=right[asked], minlength=len(counts))
    return float((hits[counts > 0] / counts[counts > 0]).mean())
