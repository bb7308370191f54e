"""The chest phantom, and random numbers to draw it with."""

import numpy as np

from medtransfer.phantoms import PHANTOMS

CHEST = PHANTOMS["chest-findings"]


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))
