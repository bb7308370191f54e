"""Contact sheets as pictures: images with the outlines of the truth and of the prediction."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medtransfer.contact_sheets.selection import GROUPS, SHOWN, Mask, Sheet, Tile
from medtransfer.core.errors import unwritable
from medtransfer.core.files import replacing

# Yellow and blue differ in hue and in lightness for every kind of colour vision, and neither is a
# colour of the retina or of a stained tissue.
_TRUTH, _PREDICTION = (255, 222, 33), (70, 170, 255)
_GROUND, _TEXT, _FAINT = (22, 24, 28), (236, 236, 236), (158, 162, 170)
_IMAGE = 256  # the longer side of an image, in pixels of the sheet
_GAP, _BLOCK_GAP, _MARGIN = 8, 28, 24
_COLUMNS = 2  # of a group
_LINE = 28
_DASH = 3
_ROW = _IMAGE + _LINE + _GAP
_BLOCK = _COLUMNS * _IMAGE + (_COLUMNS - 1) * _GAP
_WIDTH = 2 * _MARGIN + len(GROUPS) * _BLOCK + (len(GROUPS) - 1) * _BLOCK_GAP
_HEADER = 2 * _MARGIN + 2 * _LINE
_BAND = 2 * _LINE + SHOWN // _COLUMNS * _ROW + _MARGIN


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draw a sheet: a header with the legend, then every test split."""
    picture = Image.new("RGB", (_WIDTH, _HEADER + len(sheet.bands) * _BAND), _GROUND)
    pen = ImageDraw.Draw(picture)
    inside = _WIDTH - 2 * _MARGIN
    _write(pen, (_MARGIN, _MARGIN), sheet.title, size=22, width=inside)
    left = _MARGIN
    line = _MARGIN + _LINE + 18
    for text, colour in (("truth", _TRUTH), ("prediction", _PREDICTION)):
        pen.line((left, line, left + 36, line), colour, width=3)
        left += 46
        left += _write(pen, (left, line - 11), text, size=18, width=inside) + 28
    caption = "below each image: its Dice (the mean of its foreground classes) and its id"
    _write(pen, (left, line - 11), caption, size=18, width=_WIDTH - _MARGIN - left, fill=_FAINT)
    for number, band in enumerate(sheet.bands):
        top = _HEADER + number * _BAND
        _write(pen, (_MARGIN, top), band.label, size=18, width=inside)
        for column, (group, tiles) in enumerate(zip(GROUPS, band.groups, strict=True)):
            left = _MARGIN + column * (_BLOCK + _BLOCK_GAP)
            if tiles:
                _write(pen, (left, top + _LINE), group, size=16, width=_BLOCK, fill=_FAINT)
            for index, tile in enumerate(tiles):
                row, place = divmod(index, _COLUMNS)
                corner = (left + place * (_IMAGE + _GAP), top + 2 * _LINE + row * _ROW)
                _paste(picture, pen, tile, corner)
    return picture


def save_sheet(sheet: Sheet, out: Path) -> Path:
    """Draw a sheet into a folder, and write the file atomically.

    Raises:
        InputError: When it cannot be written.
        RunError: When the disk is full.
    """
    path = out / sheet.file
    try:
        out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            draw_sheet(sheet).save(part, format="PNG")
    except OSError as error:
        raise unwritable(f"--out: {path}", error) from None
    return path


def _paste(
    picture: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]
) -> None:
    """Paste an image, centred in its square, and its caption."""
    image = _outline(tile)
    left, top = corner
    place = (left + (_IMAGE - image.width) // 2, top + (_IMAGE - image.height) // 2)
    picture.paste(image, place)
    below = top + _IMAGE + 4
    used = _write(pen, (left, below), f"Dice {tile.dice:.3f}", size=16, width=_IMAGE)
    width = _IMAGE - used - 12
    _write(pen, (left + used + 12, below), tile.id, size=16, width=width, fill=_FAINT)


def _outline(tile: Tile) -> Image.Image:
    """Enlarge an image, and draw the outlines of each class.

    The outline of the truth runs just outside its pixels, that of the prediction just inside: where
    both agree, they run side by side. Where they share pixels, as between classes that touch,
    their colours alternate.
    """
    height, width = tile.truth.shape
    scale = _IMAGE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(tile.image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(image)
    truth, predicted = (np.zeros(pixels.shape[:2], bool) for _ in range(2))
    for area in _areas(tile.truth, size):
        truth |= ndimage.binary_dilation(area) & ~area
    for area in _areas(tile.predicted, size):
        predicted |= area & ~ndimage.binary_erosion(area, border_value=1)
    pixels[truth] = _TRUTH
    row, column = np.indices(truth.shape)
    pixels[predicted & ~(truth & ((row + column) % (2 * _DASH) < _DASH))] = _PREDICTION
    return Image.fromarray(pixels)


def _areas(mask: Mask, size: tuple[int, int]) -> list[NDArray[np.bool_]]:
    """Enlarge the area of each foreground class."""
    ids = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return [ids == label for label in np.unique(ids) if label > 0]


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    *,
    size: int,
    width: int,
    fill: tuple[int, int, int] = _TEXT,
) -> int:
    """Write one line, shortened in its middle to a width; return its width."""
    font = ImageFont.load_default(size=size)
    text = _plain(text)
    short, kept = text, len(text)
    while font.getlength(short) > width:
        kept -= 1
        short = f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"
    pen.text(place, short, fill=fill, font=font)
    return int(font.getlength(short))


def _plain(text: str) -> str:
    """Convert text to ASCII, the characters of Pillow's own font; drop accents."""
    letters = (letter for letter in unicodedata.normalize("NFKD", " ".join(text.split())))
    return "".join(
        letter if letter.isascii() and letter.isprintable() else "?"
        for letter in letters
        if not unicodedata.combining(letter)
    )
