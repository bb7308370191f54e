"""Read PNG, JPEG, TIFF, BMP, GIF and DICOM files as grey or colour images of 8 bits.

Values are scaled by a window or by the whole range of the file's bits, never by the darkest and
brightest pixel of an image: that would make the same tissue look different in two images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medtransfer.core.errors import InputError
from medtransfer.data.formats import dicom

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"} | dicom.SUFFIXES

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
_MAX_SIDE = 12_000
_MAX_PIXELS = 100_000_000
_LIMIT = f"at most {_MAX_SIDE} a side and {_MAX_PIXELS // 10**6} million in all are read"

_DISPLAYED = {"1", "L", "LA", "P", "RGB", "RGBA", "YCbCr"}
_DEEP = {"I;16", "I;16B", "I;16L", "I", "F"}
_UNFAITHFUL = {"JPEG", "MPO", "GIF"}  # lossy, or a palette of arbitrary order
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274  # TIFF and EXIF tags


def read_image(
    path: Path, *, channels: Literal[1, 3], window: tuple[float, float] | None = None
) -> Image.Image:
    """Read an image as a viewer would show it.

    The EXIF orientation is applied, transparency is composited on black, and for one channel
    colour is converted to grey by ITU-R 601. Deep images (DICOM, 16-bit grey, 32-bit and float
    TIFF) are scaled by ``window``, else by the window in a DICOM file, else by the whole range
    of their bits; 32-bit and float values have no such range.

    Args:
        path: The file. PNG, JPEG, TIFF, BMP and GIF are recognised by content, not by suffix.
        channels: 1 for mode ``L``, 3 for mode ``RGB``.
        window: The values shown as black and as white, of grey images of more than 8 bits.

    Raises:
        InputError: For damaged files, several frames, CMYK, images of more than 12,000 px a side
            or 100 million px, a window for 8-bit images, and deep images without a range.
    """
    with _refusals(path):
        if path.suffix.lower() in dicom.SUFFIXES:
            image = _read_dicom(path, window)
        else:
            with _open(path) as file:
                deep = file.mode in _DEEP
                image = _show_deep(path, file, window) if deep else _show(path, file, window)
        return image.convert("L" if channels == 1 else "RGB")


def read_mask(path: Path) -> Image.Image:
    """Read a mask as mode ``L`` whose pixels are class ids.

    Grey values are the ids, and so are the indices into a palette; one bit gives 0 and 1.

    Raises:
        InputError: For damaged files, colours, more than 8 bits, JPEG, GIF, and grey of 2 or 4
            bits, which would be spread over 0 to 255.
    """
    with _refusals(path):
        if path.suffix.lower() in dicom.SUFFIXES:
            raise InputError(f"{path}: a DICOM mask; save it as PNG, TIFF or BMP with class ids")
        with _open(path) as image:
            if image.format in _UNFAITHFUL:
                raise InputError(
                    f"{path}: {image.format} does not keep the class ids of a mask; save it as PNG"
                )
            if image.mode not in ("1", "L", "P"):
                count = len(image.getbands())
                channels = f" ({count} channels)" if count > 1 else ""
                grey = count > 1 and not np.ptp(np.asarray(image.convert("RGB")), axis=2).any()
                raise InputError(
                    f"{path}: a mask of mode {image.mode}{channels}; one 8-bit channel of class "
                    "ids is expected" + ("; it is grey, so save only its first" if grey else "")
                )
            stored = image.tile[0][3]  # type: ignore[attr-defined]
            layout = stored if isinstance(stored, str) else stored[0]
            if image.mode == "L" and isinstance(layout, str) and layout != "L":
                raise InputError(f"{path}: a mask stored as {layout}; save it with 8 bits")
            return Image.fromarray(np.asarray(ImageOps.exif_transpose(image)).astype(np.uint8))


def read_size(path: Path) -> tuple[int, int]:
    """Read width and height in pixels of the image that ``read_image`` returns; usually cheap.

    Raises:
        InputError: As ``read_image``, for what the header shows.
    """
    with _refusals(path):
        if path.suffix.lower() in dicom.SUFFIXES:
            return dicom.read_size(path)
        with _open(path) as image:
            if image.getexif().get(_ORIENTATION, 1) == 1:
                return image.size
            return ImageOps.exif_transpose(image).size


def fit_square(
    image: Image.Image,
    *,
    size: int,
    fit: Literal["crop", "pad", "squash"],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> NDArray[np.uint8]:
    """Resample an image to ``size`` x ``size`` pixels, antialiased unless by nearest.

    Args:
        image: Of mode ``L`` or ``RGB``.
        size: Height and width of the result, in pixels.
        fit: ``crop`` keeps the largest square about the centre; ``pad`` keeps everything and
            adds equal borders of 0 (black; class 0 of a mask); ``squash`` changes the ratio.
        resample: Pillow's filter; the geometry is the same for all.

    Returns:
        (size, size), or (size, size, 3) for a colour image.
    """
    width, height = image.size
    inner = (size, size)
    box = (0.0, 0.0, float(width), float(height))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        longest = max(width, height)
        inner = (max(1, round(size * width / longest)), max(1, round(size * height / longest)))
    resized = image.resize(inner, resample, box=box)
    square = Image.new(image.mode, (size, size))
    square.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return np.array(square)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn any decoder error into one line, and silence its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image ({', '.join(_FORMATS)} or DICOM)") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too many pixels; {_LIMIT}") from None
    except Exception as error:  # damaged bytes make decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: truncated or damaged: {reason}") from None


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open a file with Pillow and check its header before any pixel is decoded."""
    # Given a path, Pillow would map an uncompressed TIFF into memory and rotate it wrongly.
    with path.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
        _check_size(path, *image.size)
        frames = getattr(image, "n_frames", 1)
        # Further frames of MPO, a JPEG variant of phones, are previews of the first.
        if frames != 1 and image.format != "MPO":
            raise InputError(f"{path}: holds {frames} frames; one image per file is expected")
        yield image


def _check_size(path: Path, width: int, height: int) -> None:
    if max(width, height) > _MAX_SIDE or width * height > _MAX_PIXELS:
        raise InputError(f"{path}: {width} x {height} pixels; {_LIMIT}")


def _show(path: Path, image: Image.Image, window: tuple[float, float] | None) -> Image.Image:
    if image.mode not in _DISPLAYED:
        raise InputError(f"{path}: colours of mode {image.mode}; save it as grey or RGB")
    if window is not None:
        raise InputError(
            f"{path}: window: only for more than 8 bits of grey, but this is an image of mode "
            f"{image.mode}; leave it out"
        )
    shown = ImageOps.exif_transpose(image)
    if shown.has_transparency_data:
        black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
        black.alpha_composite(shown.convert("RGBA"))
        return black.convert("RGB")
    return shown


def _show_deep(path: Path, image: Image.Image, window: tuple[float, float] | None) -> Image.Image:
    tags: Any = getattr(image, "tag_v2", {})
    if window is not None:
        black, white = window
    elif (
        image.mode.startswith("I;16") or image.format == "PNG"
    ):  # older versions of Pillow give 'I'
        black, white = 0, 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    else:
        raise InputError(
            f"{path}: window: required for signed, 32-bit or float values; give the values shown "
            "as black and as white"
        )
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero; Pillow applies that to 8 bits only
        black, white = white, black
    pixels = np.asarray(ImageOps.exif_transpose(image))
    return _apply_window(path, pixels, black=black, white=white)


def _read_dicom(path: Path, window: tuple[float, float] | None) -> Image.Image:
    _check_size(path, *dicom.read_size(path))
    values = dicom.read_values(path, window=window)
    if isinstance(values, dicom.Values):
        return _apply_window(path, values.pixels, black=values.black, white=values.white)
    return Image.fromarray(values)


def _apply_window(path: Path, pixels: NDArray[Any], *, black: float, white: float) -> Image.Image:
    if black == white:
        raise InputError(f"{path}: window: black and white are both {black:g}")
    shares = (pixels.astype(np.float32) - np.float32(black)) / np.float32(white - black)
    if not np.isfinite(shares).all():
        raise InputError(f"{path}: holds values that are not finite numbers")
    return Image.fromarray(np.rint(shares.clip(0, 1) * 255).astype(np.uint8))
