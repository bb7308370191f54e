"""Contact sheets: `bench show --predictions` on a real evaluation, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medtransfer.contact_sheets.selection import read_sheets
from medtransfer.evaluation.evaluate import evaluate
from tests.conftest import Bench, Outcome, write_card, write_npz
from tests.helpers.segmentation import MAPS, draw_discs
from tests.helpers.sheets import GROUND, PREDICTION, TRUTH

EMPTY = [1, 5]  # items of the split elsewhere without a disc


@dataclass(frozen=True)
class Shown:
    """A submission with one segmentation cell, and what it was made from."""

    folder: Path
    cards: Path
    data: Path

    def options(self, out: Path) -> list[object]:
        """The options that show it."""
        return ["--predictions", "--tasks", self.cards, "--data", self.data, "--out", out]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """An encoder with maps, evaluated on discs of three classes and on a small classification.

    In the split ``elsewhere`` two of the nine masks are empty, and so are all predictions of
    these two, which are put in place of what the network said.
    """
    root = tmp_path_factory.mktemp("shown")
    arrays: dict[str, Any] = {}
    for seed, (split, items) in enumerate((("train", 40), ("val", 12), ("test", 16))):
        arrays[f"{split}_images"], arrays[f"{split}_masks"] = draw_discs(items, seed=seed)
        arrays[f"{split}_labels"] = None
    write_npz(root / "discs.npz", **arrays)
    images, masks = draw_discs(9, seed=3)
    masks[EMPTY] = 0
    write_npz(root / "elsewhere.npz", **{**arrays, "test_images": images, "test_masks": masks})
    write_card(
        root / "cards",
        "discs",
        "discs.npz",
        kind="segmentation",
        metric="dice",
        out_of_domain={
            "elsewhere": {"npz": "elsewhere.npz", "split": "test"},
            "corrupted": {
                "corrupt": "in_domain",
                "kinds": ["gaussian-noise"],
                "severities": [5],
            },
        },
    )
    write_npz(root / "small.npz")
    write_card(root / "cards", "small", "small.npz")
    (root / "maps.py").write_text(MAPS)
    evaluate(
        root / "maps.py",
        protocol="quick",
        budgets=["10-shot"],
        adaptations=["decoder", "knn"],
        out=root / "out",
        data=root,
        task_folder=root / "cards",
    )
    made = Shown(root / "out" / "maps", root / "cards", root)

    def empty(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["10-shot/decoder/elsewhere"][EMPTY] = 0

    forge(made.folder, archive=empty)
    return made


def forge(
    folder: Path,
    *,
    record: Callable[[dict[str, Any]], None] = lambda _: None,
    archive: Callable[[dict[str, NDArray[Any]]], None] = lambda _: None,
    sign: bool = True,
) -> None:
    """Change the record of the masks, or the masks; by default with a hash that fits."""
    path = folder / "predictions" / "discs.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    archive(arrays)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["task"]["name"] == "discs" and line["draw"] == 0:
            if sign:
                splits = [name for name in line["metrics"] if "/" not in name]
                content = [arrays[key] for s in splits if (key := f"10-shot/decoder/{s}") in arrays]
                whole = b"".join(array.tobytes() for array in content)
                line["predictions"]["sha256"] = hashlib.sha256(whole).hexdigest()
            record(line)
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def copy(shown: Shown, tmp_path: Path) -> Shown:
    """The same submission, to be changed."""
    folder = tmp_path / "sent" / "maps"
    shutil.copytree(shown.folder, folder)
    return Shown(folder, shown.cards, shown.data)


def kept_masks(shown: Shown, split: str) -> NDArray[np.uint8]:
    with np.load(shown.folder / "predictions" / "discs.npz", allow_pickle=False) as archive:
        masks: NDArray[np.uint8] = archive[f"10-shot/decoder/{split}"]
        return masks


def true_masks(split: str) -> NDArray[np.uint8]:
    _, masks = draw_discs(16, seed=2) if split == "in_domain" else draw_discs(9, seed=3)
    if split == "elsewhere":
        masks[EMPTY] = 0
    return np.asarray(masks)


def dice_by_sets(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """The mean Dice of the two foreground classes, from sets of pixels; NaN without any."""
    values = []
    for label in (1, 2):
        found = set(zip(*np.nonzero(predicted == label), strict=True))
        actual = set(zip(*np.nonzero(truth == label), strict=True))
        if found or actual:
            values.append(2 * len(found & actual) / (len(found) + len(actual)))
    return float(np.mean(values)) if values else float("nan")


def all_dice(shown: Shown, split: str) -> list[float]:
    pairs = zip(kept_masks(shown, split), true_masks(split), strict=True)
    return [dice_by_sets(*pair) for pair in pairs]


def test_every_cell_is_drawn_and_its_means_are_printed(
    shown: Shown, bench: Bench, tmp_path: Path
) -> None:
    """One complete PNG a cell, nothing else, and the means that the kept masks have."""
    out = tmp_path / "sheets"
    outcome = bench("show", shown.folder, *shown.options(out))
    assert outcome.code == 0, outcome.err
    assert [path.name for path in out.iterdir()] == ["discs_decoder_10-shot.png"]
    means = {split: np.nanmean(all_dice(shown, split)) for split in ("in_domain", "elsewhere")}
    assert outcome.out == (
        f"{out}/discs_decoder_10-shot.png: mean Dice over images: "
        f"in_domain {means['in_domain']:.3f}, elsewhere {means['elsewhere']:.3f}\n"
    )
    with Image.open(out / "discs_decoder_10-shot.png") as picture:
        picture.load()
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24) or ()}
    assert {TRUTH, PREDICTION, GROUND} <= colours


def test_sheets_go_to_a_folder_of_the_encoder(
    shown: Shown, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --out it is sheets/<encoder>, in the folder where one is."""
    monkeypatch.chdir(tmp_path)
    options = ["--predictions", "--tasks", shown.cards, "--data", shown.data, "--task", "discs"]
    assert bench("show", shown.folder, *options).code == 0
    assert (tmp_path / "sheets" / "maps" / "discs_decoder_10-shot.png").is_file()


def test_tiles_are_the_worst_the_middle_and_the_best(shown: Shown) -> None:
    """Groups are where the sorted Dice says, and tiles hold their own image, masks and Dice."""
    encoder, (sheet,) = read_sheets(shown.folder, task_folder=shown.cards, data=shown.data)
    assert encoder == "maps" and [band.name for band in sheet.bands] == ["in_domain", "elsewhere"]
    values = np.array(all_dice(shown, "in_domain"))
    worst, middle, best = sheet.bands[0].groups
    assert [tile.dice for tile in worst] == pytest.approx(np.sort(values)[:4])
    assert [tile.dice for tile in middle] == pytest.approx(np.sort(values)[6:10])
    assert [tile.dice for tile in best] == pytest.approx(np.sort(values)[12:])
    images, _ = draw_discs(16, seed=2)
    for tile in (*worst, *middle, *best):
        item = int(tile.id)
        assert tile.dice == pytest.approx(values[item])
        np.testing.assert_array_equal(tile.image, images[item])
        np.testing.assert_array_equal(tile.truth, true_masks("in_domain")[item])
        np.testing.assert_array_equal(tile.predicted, kept_masks(shown, "in_domain")[item])


def test_small_splits_show_no_image_twice_and_leave_out_empty_ones(shown: Shown) -> None:
    """Of 9 images 2 have no Dice: they are counted, and the other 7 are shown once, in order."""
    _, (sheet,) = read_sheets(shown.folder, task_folder=shown.cards, data=shown.data)
    band = sheet.bands[1]
    tiles = [tile for group in band.groups for tile in group]
    assert sorted(int(tile.id) for tile in tiles) == [i for i in range(9) if i not in EMPTY]
    assert [tile.dice for tile in tiles] == sorted(tile.dice for tile in tiles)
    assert band.label.startswith("elsewhere: 9 images") and "; 2 without a Dice" in band.label


def change_one_pixel(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["10-shot/decoder/in_domain"][3, 4, 5] ^= 1


def change_class(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["10-shot/decoder/in_domain"][3, 4, 5] = 3


def change_size(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["10-shot/decoder/in_domain"] = np.zeros((16, 8, 8), np.uint8)


def change_type(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["10-shot/decoder/in_domain"] = arrays["10-shot/decoder/in_domain"].astype(np.int64)


def drop_split(arrays: dict[str, NDArray[Any]]) -> None:
    del arrays["10-shot/decoder/elsewhere"]


@pytest.mark.parametrize(
    ("change", "sign", "words"),
    [
        (change_one_pixel, False, "predictions.sha256: the masks differ from those of the record"),
        (change_class, True, "class id 3; 0 to 2 is expected"),
        (change_size, True, "shape (16, 8, 8); uint8 of 16 x 32 x 32 is expected"),
        (change_type, True, "in_domain: int64 of shape"),
        (drop_split, True, "10-shot/decoder/elsewhere"),
    ],
)
def test_masks_that_are_not_the_records_are_refused(
    change: Callable[[dict[str, NDArray[Any]]], None],
    sign: bool,
    words: str,
    copy: Shown,
    bench: Bench,
    tmp_path: Path,
) -> None:
    """Changed masks, and masks that do not fit the data, end with one line and no picture."""
    forge(copy.folder, archive=change, sign=sign)
    refuse(bench("show", copy.folder, *copy.options(tmp_path / "sheets")), words)
    assert not (tmp_path / "sheets").exists()


def set_file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["predictions"].update(file=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_file("../../elsewhere.npz"), "lies outside the submission"),
        (set_file("predictions/gone.npz"), "gone.npz: missing"),
        (set_file("encoder.yaml"), "cannot be read, damaged"),
        (set_file("predictions/\0.npz"), "cannot be read, damaged"),
        (lambda record: record["predictions"].update(sha256=None), "predictions.sha256"),
        (lambda record: record["task"].update(fingerprint="0" * 64), "other data or another card"),
        (lambda record: record.update(budget="../../full"), "is not a protocol's cell"),
        (lambda record: record["task"].update(name="disks"), "no card is called 'disks'; --tasks"),
    ],
)
def test_records_that_lead_astray_are_refused(
    change: Callable[[dict[str, Any]], None],
    words: str,
    copy: Shown,
    bench: Bench,
    tmp_path: Path,
) -> None:
    """No file outside the submission is read, none outside --out written, no other data shown."""
    forge(copy.folder, record=change)
    refuse(bench("show", copy.folder, *copy.options(tmp_path / "sheets")), words)
    assert not (tmp_path / "sheets").exists()


def test_links_out_of_a_submission_are_not_followed(
    copy: Shown, bench: Bench, tmp_path: Path
) -> None:
    """A link may lead out where the path itself does not."""
    path = copy.folder / "predictions" / "discs.npz"
    path.rename(tmp_path / "masks.npz")
    path.symlink_to(tmp_path / "masks.npz")
    refuse(bench("show", copy.folder, *copy.options(tmp_path / "sheets")), "discs.npz: a link")


def refuse(outcome: Outcome, words: str) -> None:
    """One line, exit code 2."""
    assert outcome.code == 2 and outcome.out == ""
    assert words in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_wrong_requests_are_one_line(shown: Shown, bench: Bench, tmp_path: Path) -> None:
    """Every wrong use says what would be right."""
    out = tmp_path / "sheets"
    options = shown.options(out)
    refuse(bench("show", "resnet18", *options), "needs the folder of a submission")
    refuse(bench("show", shown.folder, *options, "--task", "disc"), "did you mean 'discs'?")
    refuse(bench("show", shown.folder, "--predictions", "--out", out), "--tasks names the folder")
    refuse(bench("show", shown.folder, *options, "--json"), "--json: not with --predictions")
    refuse(bench("show", "v1", "--task", "discs"), "--task: only with --predictions")
    refuse(bench("show", "v1", "--out", out), "--out: only with --predictions")
    assert not out.exists()
    out.write_text("")
    refuse(bench("show", shown.folder, *options), "sheets")
    assert out.read_text() == ""


def test_submission_without_masks_says_what_it_has(
    copy: Shown, bench: Bench, tmp_path: Path
) -> None:
    """Later draws keep no masks, and classification has none."""
    forge(copy.folder, record=lambda record: record.update(draw=1))
    outcome = bench("show", copy.folder, *copy.options(tmp_path / "sheets"))
    refuse(outcome, "only records of discs (segmentation), small (multiclass)")


def test_sheets_need_no_torch(shown: Shown, tmp_path: Path) -> None:
    """To look at masks one need not wait for torch."""
    arguments = ["bench", "show", str(shown.folder), *map(str, shown.options(tmp_path / "sheets"))]
    code = f"""
import sys
sys.argv = {arguments!r}
from medtransfer.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print("TORCH", "torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "TORCH False"
