"""From a corpus' labels to the classes of a card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medtransfer.core.errors import InputError
from medtransfer.data.labels import conform, count_labels
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.task import TaskCard

Select = dict[str, list[str]]


def card(kind: str = "multiclass", classes: tuple[str, ...] = ("normal", "sick")) -> TaskCard:
    """A card whose sources do not matter here."""
    source = {"npz": "some.npz", "split": "train"}
    return TaskCard.parse(
        {
            "name": "some",
            "title": "Some",
            "domain": "ct",
            "kind": kind,
            "classes": list(classes),
            "metric": "dice" if kind == "segmentation" else "auroc",
            "train": source,
            "validation": source,
            "in_domain": source,
            "licence": "CC0",
            "citation": "none",
        },
        origin="card",
    )


def split(labels: Any, names: list[str] | None = None, **fields: Any) -> Decoded:
    """A split of images whose every pixel is the item's number, in batches of three."""
    labels = np.array(labels, np.int64)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    return Decoded(
        origin="some.npz",
        shape=images.shape,
        images=[images[start : start + 3] for start in range(0, len(labels), 3)],
        labels=labels,
        ids=[f"item {item}" for item in range(len(labels))],
        label_names=names,
        **fields,
    )


def pixels(decoded: Decoded) -> NDArray[np.uint8]:
    """The items that are left, told by their images."""
    found: NDArray[np.uint8] = np.concatenate(list(decoded.images))
    assert found.shape == decoded.shape
    return found[:, 0, 0]


def test_items_of_a_multi_label_corpus_are_selected() -> None:
    """`[]` takes items with no label at all; unknown labels and items of two classes drop out."""
    labels = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, -1], [0, -1, 1]]
    select = {"normal": [], "sick": ["pneumonia", "mass"]}
    patients = [f"p{item}" for item in range(6)]
    decoded = split(labels, ["pneumonia", "effusion", "mass"], patients=patients)
    found = conform(decoded, card(), select)
    assert found.labels.tolist() == [0, 1, 1, 1]
    assert found.ids == ["item 0", "item 1", "item 2", "item 5"]
    assert found.patients == ["p0", "p1", "p2", "p5"]
    assert pixels(found).tolist() == [0, 1, 2, 5]
    both = {"normal": ["effusion"], "sick": ["mass"]}  # item 5 may be both
    found = conform(split(labels, ["pneumonia", "effusion", "mass"]), card(), both)
    assert found.ids == ["item 2", "item 3"]


def test_classes_of_another_corpus_are_mapped_and_the_rest_left_out() -> None:
    """STL-10's classes are CIFAR-10's in another order, and one that it does not have."""
    names = ["bird", "cat", "monkey"]
    select = {"normal": ["cat"], "sick": ["bird"]}
    found = conform(split([0, 1, 2, 0, 1], names), card(), select)
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert pixels(found).tolist() == [0, 1, 3, 4]


def test_equal_names_in_another_order_are_mapped() -> None:
    """What a label is called counts, not its number; case and punctuation do not count."""
    found = conform(split([0, 1, 1], ["Sick", "Nor-mal"]), card(), None)
    assert found.labels.tolist() == [1, 0, 0]
    assert conform(split([0, 1, 1], ["normal", "sick"]), card(), None).labels.tolist() == [0, 1, 1]
    some = conform(split([0, 1], ["ER+", "HER2"]), card(classes=("ER+", "ER-", "HER2")), None)
    assert some.labels.tolist() == [0, 2]
    only = conform(split([0, 0], ["sick"]), card(), None)  # an external set of one class
    assert only.labels.tolist() == [1, 1]
    labels = [[1, 0], [0, -1]]
    found = conform(split(labels, ["sick", "normal"]), card("multilabel"), None)
    assert found.labels.tolist() == [[0, 1], [-1, 0]]


def test_labels_become_labels() -> None:
    """Any of several source labels makes a positive; an unknown one hides a negative only.

    Of a class that the corpus has no label for nothing is known.
    """
    labels = [[1, 0, 0], [0, -1, 0], [0, -1, 1], [0, 0, 0]]
    select = {"normal": ["a", "b"], "sick": ["c"]}
    found = conform(split(labels, ["a", "b", "c"]), card("multilabel"), select)
    assert found.labels.tolist() == [[1, 0], [-1, 0], [-1, 1], [0, 0]]
    found = conform(split(labels, ["a", "b", "c"]), card("multilabel"), {"normal": []})
    assert found.labels.tolist() == [[0, -1], [-1, -1], [0, -1], [1, -1]]


def test_masks_are_renumbered() -> None:
    """Names and `select` decide a pixel's class; what is not selected is background."""
    masks = [np.array([[[0, 1], [2, 3]]] * 2, np.uint8)]
    names = ["nothing", "vein", "artery", "disc"]
    select = {"vessel": ["vein", "artery"]}
    vessels = card("segmentation", ("background", "vessel"))
    decoded = split(np.empty((2, 0)), names, masks=masks)
    found = conform(decoded, vessels, select)
    assert found.masks is not None
    assert next(iter(found.masks)).tolist() == [[[0, 1], [1, 0]]] * 2
    four = card("segmentation", ("nothing", "artery", "vein", "disc"))
    found = conform(decoded, four, None)
    assert found.masks is not None
    assert next(iter(found.masks)).tolist() == [[[0, 2], [1, 3]]] * 2
    unnamed = conform(split(np.empty((2, 0)), masks=masks), vessels, None)
    assert unnamed.masks is not None
    with pytest.raises(InputError, match=r"mask value 2 is none of the card's 2 classes"):
        list(unnamed.masks)


@pytest.mark.parametrize(
    ("decoded", "kind", "select", "message"),
    [
        (split([0, 2]), "multiclass", None, r"label 2 is outside the card's 2 classes \(0 to 1\)"),
        (split([0, -1]), "multiclass", None, r"label -1 is outside"),
        (split([[0, 1]]), "multiclass", None, r"2 labels an item.*use kind: multilabel, or select"),
        (split([0, 1]), "multilabel", None, r"shape \(2,\).*\(N, 2\) with 1, 0 and -1"),
        (split([[0, 2]]), "multilabel", None, r"label 2; 1, 0 and -1"),
        (split([0, 1], ["normal", "sik"]), "multiclass", None, r"'sik'; did you mean 'sick'"),
        (split([[0, 1]], ["normal"]), "multilabel", None, r"lack 'sick'"),
        (split([0], ["a"]), "multiclass", {"sick": ["b"]}, r"select: sick: no label 'b'"),
        (split([0], ["a"]), "multiclass", {"normal": []}, r"normal: an empty list.*has one"),
        (split([0]), "multiclass", {"sick": ["b"]}, r"select: sick: the labels have no names"),
        (split([0], ["a"]), "multiclass", {"sick": []}, r"every item has one"),
        (split([0], ["a", "b"]), "multiclass", {"sick": ["b"]}, r"no item fits any class"),
        (split([0, 1]), "segmentation", None, r"holds no masks"),
        (split(np.empty((1, 0)), masks=[]), "multiclass", None, r"holds masks, but the card"),
    ],
)
def test_wrong_labels(decoded: Decoded, kind: str, select: Select | None, message: str) -> None:
    """What contradicts the card is refused, naming the file, the field and what would be right."""
    with pytest.raises(InputError, match=message) as error:
        conform(decoded, card(kind), select)
    assert str(error.value).startswith("some.npz: ")


def test_counts() -> None:
    """Items of each class, positives of each label."""
    assert count_labels(np.array([0, 2, 2]), 4) == [1, 0, 2, 0]
    assert count_labels(np.array([[1, -1], [1, 0]]), 2) == [2, 0]
