"""Cards and MedMNIST files that are refused in one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer.core.errors import InputError
from medtransfer.specs.task import load_tasks
from tests.conftest import Bench, Harmful, Small, write_card, write_npz
from tests.helpers.data import (
    IMAGES,
    LABELS,
    edit_card,
    npy_header,
    open_card,
    refusal,
    replace_member,
)


def encrypt(path: Path) -> None:
    """Set the flag of encryption on every member."""
    content = bytearray(path.read_bytes())
    for signature, flag in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + flag] |= 1
    path.write_bytes(content)


NOT_A_NUMBER = np.full((60, 16, 16), np.nan, np.float32)
# What is wrong, how it comes about, and the words that the message must hold.
BAD_FILES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "truncated file": (
        lambda path: path.write_bytes(path.read_bytes()[:-300]),
        ["not a complete .npz file"],
    ),
    "damaged images": (
        lambda path: replace_member(path, "train_images.npy", b"\x93NUMPY\x01\x00\x20\x00{((("),
        ["train_images", "damaged"],
    ),
    "header that never ends": (
        lambda path: replace_member(
            path, "train_images.npy", b"\x93NUMPY\x01\x00\x20\x00{'descr': ((((" + b"y" * 40
        ),
        ["train_images", "damaged"],
    ),
    "not a zip": (lambda path: path.write_text("images"), ["not a complete .npz file"]),
    "encrypted": (encrypt, ["train_images", "encrypted"]),
    "lengths differ": (
        lambda path: write_npz(path, train_labels=LABELS[:-1]),
        ["train_labels", "(59, 1)", "60 images"],
    ),
    "labels of two columns": (
        lambda path: write_npz(path, train_labels=np.hstack([LABELS, LABELS])),
        ["train_labels", "(60, 2)", "60 images"],
    ),
    "label too large": (
        lambda path: write_npz(path, train_labels=np.where(LABELS == 2, 7, LABELS)),
        ["train", "label 7", "3 classes (0 to 2)"],
    ),
    "negative label": (
        lambda path: write_npz(path, train_labels=LABELS.astype(np.int8) - 1),
        ["train", "label -1", "3 classes (0 to 2)"],
    ),
    "float labels": (
        lambda path: write_npz(path, train_labels=LABELS / 1.0),
        ["train_labels", "float64", "integer class ids"],
    ),
    "other label_names": (
        lambda path: write_npz(path, label_names=np.array(["second", "furst", "third"])),
        ["train", "label names", "'second', 'furst'", "contradict", "did you mean 'first'"],
    ),
    "too few label_names": (
        lambda path: write_npz(path, label_names=np.array(["first", "second"])),
        ["train", "label 2 has no name among", "'first', 'second'"],
    ),
    "float images": (
        lambda path: write_npz(path, train_images=IMAGES / 255.0),
        ["train_images", "float64", "uint8 (0-255) is expected"],
    ),
    "NaN images": (
        lambda path: write_npz(path, train_images=NOT_A_NUMBER),
        ["train_images", "float32", "uint8 (0-255) is expected"],
    ),
    "four channels": (
        lambda path: write_npz(path, train_images=np.stack([IMAGES] * 4, axis=-1)),
        ["train_images", "(60, 16, 16, 4)", "(N, H, W) or (N, H, W, 3) is expected"],
    ),
    "flat images": (
        lambda path: write_npz(path, train_images=IMAGES.reshape(60, -1)),
        ["train_images", "(60, 256)", "(N, H, W) or (N, H, W, 3) is expected"],
    ),
    "Fortran order": (
        lambda path: write_npz(path, train_images=np.asfortranarray(IMAGES)),
        ["train_images", "Fortran", "np.ascontiguousarray"],
    ),
    "empty split": (
        lambda path: write_npz(path, train_images=IMAGES[:0], train_labels=LABELS[:0]),
        ["train_images", "empty", "(0, 16, 16)"],
    ),
    "negative size": (
        lambda path: replace_member(
            path, "train_images.npy", npy_header((-1, 16, 16), "|u1") + bytes(99)
        ),
        ["train_images", "(-1, 16, 16)"],
    ),
    "missing array": (
        lambda path: replace_member(path, "train_images.npy", None, to="trian_images.npy"),
        ["train_images", "no such array", "did you mean 'trian_images'?"],
    ),
    "member without .npy": (
        lambda path: replace_member(path, "train_images.npy", None, to="train_images"),
        ["train_images", "no such array"],
    ),
    "missing labels": (
        lambda path: write_npz(path, val_labels=None),
        ["val_labels", "no such array"],
    ),
    "missing images": (  # those of another split are not what was meant
        lambda path: replace_member(path, "val_images.npy", None, to="val_image.npy"),
        ["val_images", "no such array", "did you mean 'val_image'?"],
    ),
    "class without example": (
        lambda path: write_npz(path, train_labels=LABELS % 2),
        ["train", "class 'third'", "no training example"],
    ),
    "images header claims 1 PB": (
        lambda path: replace_member(
            path, "train_images.npy", npy_header((10**9, 1000, 1000), "|u1") + bytes(99)
        ),
        ["train_images", "truncated", "needs more bytes than the file has"],
    ),
    "labels header claims 100 TB": (
        lambda path: replace_member(
            path, "train_labels.npy", npy_header((10**14,), "|u1") + bytes(99)
        ),
        ["train_labels", "truncated", "needs more bytes than the file has"],
    ),
    "names header claims 6 GB": (
        lambda path: replace_member(
            path, "label_names.npy", npy_header((3,), "<U500000000") + bytes(99)
        ),
        ["label_names", "truncated", "needs more bytes than the file has"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_in_one_line(small: Small, case: str) -> None:
    """Whatever is wrong with a file, one line names the file, the array and what is expected."""
    damage, words = BAD_FILES[case]
    damage(small.npz)
    message = refusal(small.card, small.data)
    for word in ("small.npz" if case != "class without example" else "small", *words):
        assert word in message


@pytest.mark.parametrize("name", ["train_images", "train_labels", "label_names"])
def test_pickled_objects_are_never_loaded(small: Small, tmp_path: Path, name: str) -> None:
    """An array of Python objects is refused by name, and nothing in it runs."""
    harm = tmp_path / "harm"
    write_npz(small.npz, **{name: np.array([Harmful(harm)] * 60, dtype=object)})
    with pytest.raises(FileExistsError):  # the object would do its harm if it were unpickled
        harm.mkdir()
        pickle.loads(pickle.dumps(Harmful(harm)))
    harm.rmdir()
    message = refusal(small.card, small.data)
    assert "small.npz" in message and name in message and "never loaded" in message
    assert not harm.exists()


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (["non-COVID", "COVID"], ["non-covid", "covid"]),
        (["non-covid", "covid"], ["non_COVID", "Covid"]),
        (["ER+", "ER-"], ["er+", "er-"]),
        (["t", "T"], ["t", "T"]),
    ],
)
def test_label_names_may_differ_in_case_and_punctuation(
    small: Small, classes: list[str], names: list[str]
) -> None:
    """The same class written in another way is the same class."""
    write_npz(small.npz, classes=2, label_names=np.array(names))
    assert open_card(edit_card(small.card, classes=classes), small.data)


@pytest.mark.parametrize("classes", [["ER+", "ER-"], ["t", "T"]])
def test_names_decide_what_a_label_means(small: Small, classes: list[str]) -> None:
    """Names in another order than the card's are mapped; case alone may tell two apart."""
    arrays = write_npz(small.npz, classes=2, label_names=np.array(classes[::-1]))
    split = open_card(edit_card(small.card, classes=classes), small.data).splits["train"]
    np.testing.assert_array_equal(split.labels, 1 - np.ravel(arrays["train_labels"]))


def test_missing_file_is_refused_with_the_closest_name(small: Small) -> None:
    """A file that is not there: its name, the folder, and the closest file that is."""
    card = write_card(small.cards, "other", "smal.npz")
    message = refusal(card, small.data)
    assert "smal.npz: not found" in message and "did you mean 'small.npz'?" in message


def test_missing_folder_is_refused(small: Small) -> None:
    """Without a folder of data the message says how to name one; a wrong one is named."""
    assert "pass --data DIR or set BENCH_DATA" in refusal(small.card, None)
    assert "--data" in refusal(small.card, small.data / "absent")
    assert "not a folder" in refusal(small.card, small.npz)


@pytest.mark.parametrize("name", ["../small.npz", "/small.npz", "a/../../small.npz", "small.txt"])
def test_card_cannot_leave_the_data_folder(small: Small, name: str) -> None:
    """A card names files inside the data folder, whatever else exists."""
    edit_card(small.card, train={"npz": name, "split": "train"})
    message = refusal(small.card, small.data)
    assert "small.yaml: train: npz: " in message
    assert "a relative path" in message and "inside the data folder is expected" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"licens": "CC0"}, ["licens: unknown field", "did you mean 'licence'?"]),
        ({"name": "small"}, ["name: ", "the file's name is the task's name"]),
        ({"train": {"npz": "small.npz", "split": "tset"}}, ["train: npz: split: ", "'test'"]),
        ({"train": {"file": "small.npz"}}, ["train: ", "exactly one of: npz, phantom"]),
        ({"classes": ["one"]}, ["classes: ", "2 items"]),
        ({"classes": ["one", "one"]}, ["classes: a name occurs twice"]),
        ({"metric": "dice"}, ["metric: for multiclass use one of auroc"]),
        ({"out_of_domain": {"in_domain": {}}}, ["out_of_domain: "]),
    ],
)
def test_wrong_card_is_refused(small: Small, changes: dict[str, Any], words: list[str]) -> None:
    """A wrong card: the file, the field and what would be right, in one line."""
    message = refusal(edit_card(small.card, **changes), small.data)
    for word in ("small.yaml: ", *words):
        assert word in message


def test_yaml_aliases_are_refused(small: Small) -> None:
    """Nested aliases expand without bound, so none is allowed."""
    small.card.write_text("a: &a [x, x]\nclasses: [*a, *a]\n")
    message = refusal(small.card, small.data)
    assert "small.yaml: YAML aliases are not allowed" in message


def test_two_cards_of_one_name_are_refused(small: Small) -> None:
    """A name belongs to one card of a folder."""
    write_card(small.cards / "sub", "small", "small.npz")
    with pytest.raises(InputError, match=r"the name 'small' is taken by .*small\.yaml; rename"):
        load_tasks(small.cards)


@pytest.mark.parametrize("command", ["evaluate", "validate"])
def test_command_line_refuses_in_one_line(
    small: Small, tmp_path: Path, bench: Bench, command: str
) -> None:
    """Bad data end a command with exit code 2, one line on stderr and nothing written."""
    write_npz(small.npz, train_images=NOT_A_NUMBER)
    out = tmp_path / "out"
    arguments: dict[str, list[object]] = {
        "evaluate": ["-e", "pixels", "--tasks", small.cards, "--protocol", "quick", "--out", out],
        "validate": [small.card],
    }
    outcome = bench(command, *arguments[command], "--data", small.data)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert "train_images" in outcome.err
    assert not out.exists()
