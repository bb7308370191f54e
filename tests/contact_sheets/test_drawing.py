"""Outlines, tiles and text of contact sheets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtransfer.contact_sheets.drawing import draw_sheet
from medtransfer.contact_sheets.selection import Band, Sheet, Tile
from tests.helpers.sheets import GROUND, PREDICTION, TRUTH


def green(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], name: str = "a") -> Tile:
    image = np.zeros((*truth.shape, 3), np.uint8)
    image[..., 1] = 200
    return Tile(image, truth, predicted, 0.5, name)


def draw(*tiles: Tile) -> NDArray[np.uint8]:
    band = Band("in_domain", len(tiles), np.full(len(tiles), 0.5), (list(tiles), [], []))
    return np.asarray(draw_sheet(Sheet("a | b", "a.png", (band,))))


def is_colour(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (pixels == colour).all(axis=-1)
    return same


def cut(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The one tile of a sheet: what the green image covers."""
    rows, columns = np.nonzero(is_colour(picture, (0, 200, 0)))
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def square(first: int, last: int, *, label: int = 1) -> NDArray[np.uint8]:
    mask = np.zeros((64, 64), np.uint8)
    mask[first:last, first:last] = label
    return mask


def ring(first: int, last: int) -> NDArray[np.bool_]:
    """The outermost pixels of a square of an enlarged image, without its corners."""
    drawn = np.zeros((256, 256), bool)
    drawn[first, first + 1 : last - 1] = drawn[last - 1, first + 1 : last - 1] = True
    return drawn | drawn.T


def test_outlines_run_side_by_side_where_the_masks_agree() -> None:
    """The truth's line is just outside the area, the prediction's just inside, one pixel each."""
    tile = cut(draw(green(square(16, 48), square(16, 48))))
    assert tile.shape == (256, 256, 3)
    np.testing.assert_array_equal(is_colour(tile, TRUTH), ring(63, 193))
    inside = ring(64, 192)
    inside[[64, 64, 191, 191], [64, 191, 64, 191]] = True
    np.testing.assert_array_equal(is_colour(tile, PREDICTION), inside)
    fifth = square(16, 48, label=5)  # enlarging must not make ids between 0 and 5
    np.testing.assert_array_equal(cut(draw(green(fifth, fifth))), tile)


def test_outlines_show_what_is_missed_and_what_is_invented() -> None:
    """A truth alone has only its own line, and so has a prediction; no line of the other's."""
    missed = cut(draw(green(square(16, 48), square(0, 0))))
    assert is_colour(missed, TRUTH).any() and not is_colour(missed, PREDICTION).any()
    invented = cut(draw(green(square(0, 0), square(16, 48, label=2))))
    assert is_colour(invented, PREDICTION).any() and not is_colour(invented, TRUTH).any()


def test_both_colours_are_seen_between_classes_that_touch() -> None:
    """Where two classes touch both lines fall on the same pixels, and both must be seen."""
    mask = square(8, 56)
    mask[:, 32:][mask[:, 32:] == 1] = 2
    seam = cut(draw(green(mask, mask)))[60:196, 126:130]
    for colour in (TRUTH, PREDICTION):
        assert is_colour(seam, colour).any(axis=1).mean() > 0.4


def test_images_keep_their_shape_and_lie_in_the_middle() -> None:
    """A wide image is as wide as a square one, half as high, and centred."""
    wide = np.zeros((40, 80), np.uint8)
    assert cut(draw(green(wide, wide))).shape == (128, 256, 3)
    tops = [
        np.nonzero(is_colour(draw(green(mask, mask)), (0, 200, 0)))[0].min()
        for mask in (wide, square(0, 0))
    ]
    assert tops[0] - tops[1] == 64


def test_text_of_any_kind_stays_below_its_image() -> None:
    """Long ids, odd scripts and control characters are drawn, and never reach the next tile."""
    none = square(0, 0)
    names = ["患者/スキャン" * 30, "Müller\n\x00\t" * 30, "patient_0001_slice_" * 20, ""]
    picture = draw(*(green(none, none, name) for name in names))
    columns = np.nonzero(is_colour(picture, (0, 200, 0)).any(axis=0))[0]
    gap = np.setdiff1d(np.arange(columns.min(), columns.max()), columns)
    rows = np.nonzero(is_colour(picture, (0, 200, 0)).any(axis=1))[0]
    assert len(gap) == 8
    below = picture[rows.min() :, gap]
    assert is_colour(below, GROUND).all()
    assert is_colour(picture[rows.min() :, columns.max() + 1 :], GROUND).all()
