"""Read NIfTI volumes in one orientation, whatever the file's."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError

# Bound for damaged headers: twice the largest volume of the Decathlon.
_MOST_VOXELS = 2**29


@dataclass(frozen=True)
class Volume:
    """A volume whose header has been read; its voxels are still on disk.

    The columns run to the patient's left, the rows to the back and the slices to the head: an
    axial slice is seen as radiologists see it, upright and with the patient's right on the left.

    Attributes:
        path: The file.
        shape: Numbers of columns, rows and slices.
        channels: Number of channels; 1 in a 3-D file.
    """

    path: Path
    shape: tuple[int, ...]
    channels: int
    _image: Any
    _turn: NDArray[np.float64]

    def read(self, channel: int = 0) -> NDArray[Any]:
        """Read one channel.

        Returns:
            (columns, rows, slices): integers as in the file, all else as float32 (infinite where
            it is too large).

        Raises:
            InputError: When the file is truncated or damaged.
        """
        with _nibabel(self.path) as nibabel:
            stored = self._image.dataobj
            voxels = stored[..., channel] if len(stored.shape) == 4 else np.asanyarray(stored)
            turned: NDArray[Any] = nibabel.apply_orientation(voxels, self._turn)
            # nibabel may use long doubles, which differ between machines.
            return turned.astype(np.float32, copy=False) if turned.dtype.kind == "f" else turned


def open_volume(path: Path) -> Volume:
    """Read the header of a ``.nii`` or ``.nii.gz`` file.

    Raises:
        InputError: When it is not a volume of 3 or 4 dimensions, or larger than any real one.
    """
    with _nibabel(path) as nibabel:
        image = nibabel.load(path)
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("LPS")
        )
    shape, dtype = image.shape, image.get_data_dtype()
    if dtype.kind not in "iuf" or len(shape) not in (3, 4) or min(shape) < 1:
        raise InputError(f"{path}: {dtype} of shape {shape}; a 3-D or 4-D volume is expected")
    if int(np.prod(shape, dtype=object)) > _MOST_VOXELS:
        raise InputError(f"{path}: claims {shape} voxels; at most {_MOST_VOXELS:,} are expected")
    turned = tuple(int(shape[axis]) for axis in np.argsort(turn[:, 0]))
    return Volume(path, turned, int(shape[3]) if len(shape) == 4 else 1, image, turn)


@contextmanager
def _nibabel(path: Path) -> Iterator[Any]:
    """Import nibabel, silence it, and turn any of its errors into one line."""
    try:
        nibabel = importlib.import_module("nibabel")
    except ImportError:
        raise InputError(f"{path}: NIfTI volumes need nibabel: pip install nibabel") from None
    logger = nibabel.imageglobals.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs each repair of a header
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield nibabel
    except FileNotFoundError:
        raise InputError(f"{path}: not found; unpack the whole archive") from None
    except Exception as error:  # damaged bytes make decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a complete NIfTI volume: {reason}") from None
    finally:
        logger.setLevel(level)
