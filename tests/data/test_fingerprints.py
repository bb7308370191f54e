"""Fingerprints of tasks: what enters them, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Small, write_npz
from tests.helpers.data import IMAGES, LABELS, edit_card, open_card


@pytest.mark.parametrize(
    "changes",
    [
        {"citation": "corrected"},
        {"title": "corrected"},
        {"licence": "CC BY 4.0"},
        {"lineage": ["a-corpus"]},
        {"domain": "oct"},
    ],
)
def test_words_do_not_enter_the_fingerprint(small: Small, changes: dict[str, Any]) -> None:
    """What changes no number changes no fingerprint."""
    before = open_card(small.card, small.data).fingerprint
    assert open_card(edit_card(small.card, **changes), small.data).fingerprint == before


@pytest.mark.parametrize(
    "changes",
    [
        {"revision": 2},
        {"classes": ["first", "second", "other"]},
        {"classes": ["first", "second", "third", "fourth"], "train": {"npz": "4.npz"}},
        {"flip": True},
        {"out_of_domain": {}},
        {"out_of_domain": {"renamed": {"npz": "small.npz", "split": "test"}}},
        {"validation": {"npz": "small.npz", "split": "test"}},
    ],
)
def test_what_changes_numbers_changes_the_fingerprint(
    small: Small, changes: dict[str, Any]
) -> None:
    """Revision, classes, augmentation and splits enter the fingerprint."""
    before = open_card(small.card, small.data).fingerprint
    write_npz(small.data / "4.npz", classes=4)
    if changes.get("train") == {"npz": "4.npz"}:
        changes = {**changes, "train": {"npz": "4.npz", "split": "train"}}
    assert open_card(edit_card(small.card, **changes), small.data).fingerprint != before


def test_one_pixel_or_label_changes_the_fingerprint(small: Small) -> None:
    """The decoded data enter the fingerprint whole."""
    found = {open_card(small.card, small.data).fingerprint}
    images, labels = IMAGES.copy(), LABELS.copy()
    images[-1, -1, -1] ^= 1
    labels[-1] = (labels[-1] + 1) % 3
    for changes in ({"train_images": images}, {"train_labels": labels}):
        write_npz(small.npz, **changes)
        found.add(open_card(small.card, small.data).fingerprint)
    # The same bytes in another shape are other images.
    write_npz(small.npz, train_images=IMAGES.reshape(60, 8, 32))
    found.add(open_card(small.card, small.data).fingerprint)
    assert len(found) == 4
