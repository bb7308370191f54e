"""The data: refusals in one line, the store, fingerprints, draws, and the real images."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.lib import format as npy_format

from medtransfer.core.errors import InputError
from medtransfer.core.seeds import seed_of
from medtransfer.data.draws import draw_items, feasible, hold_out, stratified_folds
from medtransfer.data.files.cache import cache_folder
from medtransfer.data.sources import npz as npz_source
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card, load_tasks
from tests.conftest import ROOT, Bench, Harmful, Small, draw_images, write_card, write_npz


def open_card(card: Path, data: Path | None) -> TaskData:
    return open_task(load_card(card), folder=data)


def refusal(card: Path, data: Path | None) -> str:
    """The message with which a task is refused: always one line."""
    with pytest.raises(InputError) as caught:
        open_card(card, data)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def edit_card(card: Path, **changes: object) -> Path:
    fields = {**yaml.safe_load(card.read_text()), **changes}
    card.write_text(yaml.safe_dump(fields))
    return card


def replace_member(path: Path, name: str, content: bytes | None, *, to: str = "") -> None:
    """Rewrite one member of a zip archive; ``None`` keeps its bytes, ``to`` renames it."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    old = members.pop(name, b"")
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members, to or name: old if content is None else content}.items():
            archive.writestr(member, data)


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of an .npy file, whatever follows it."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def encrypt(path: Path) -> None:
    """Set the flag of encryption on every member."""
    content = bytearray(path.read_bytes())
    for signature, flag in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + flag] |= 1
    path.write_bytes(content)


# Refusals.

LABELS = np.arange(60, dtype=np.uint8)[:, None] % 3
IMAGES = draw_images(np.arange(60) % 3, seed=0)
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
        ["train", "label 2 is none of the names", "'first', 'second'"],
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
        ["train_images", "truncated", "needs more bytes than are there"],
    ),
    "labels header claims 100 TB": (
        lambda path: replace_member(
            path, "train_labels.npy", npy_header((10**14,), "|u1") + bytes(99)
        ),
        ["train_labels", "truncated", "needs more bytes than are there"],
    ),
    "names header claims 6 GB": (
        lambda path: replace_member(
            path, "label_names.npy", npy_header((3,), "<U500000000") + bytes(99)
        ),
        ["label_names", "truncated", "needs more bytes than are there"],
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
    assert "Pass --data DIR or set BENCH_DATA" in refusal(small.card, None)
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
        ({"name": "small"}, ["name: ", "the file's name is the name"]),
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


# The store.


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("BENCH_CACHE", str(folder))
    return folder


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "splits").iterdir() if path.is_dir())


def test_decoded_splits_equal_the_file(small: Small, own_cache: Path) -> None:
    """The store gives back what is in the file, memory-mapped, with int64 labels."""
    arrays = np.load(small.npz)
    task = open_card(small.card, small.data)
    assert cache_folder() == own_cache
    assert list(task.splits) == ["train", "validation", "in_domain", "again"]
    assert list(task.tests) == ["in_domain", "again"]
    for name, part in (("train", "train"), ("validation", "val"), ("again", "test")):
        split = task.splits[name]
        assert isinstance(split.images, np.memmap) and split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images, arrays[f"{part}_images"])
        np.testing.assert_array_equal(split.labels, arrays[f"{part}_labels"].ravel())
        assert split.ids == [str(row) for row in range(len(split))]


def test_split_is_decoded_once(
    small: Small, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a task again decodes nothing, and two names of one split share an entry."""
    calls = []
    decode = npz_source.decode

    def count(source: Any, folder: Any) -> Any:
        calls.append(source.split)
        return decode(source, folder)

    monkeypatch.setattr(npz_source, "decode", count)
    first = open_card(small.card, small.data)
    second = open_card(small.card, small.data)
    assert calls == ["train", "val", "test"]
    assert first.fingerprint == second.fingerprint
    assert len(entries(own_cache)) == 3


def test_changed_file_is_decoded_again(small: Small, own_cache: Path) -> None:
    """An entry belongs to one version of a file."""
    before = open_card(small.card, small.data).splits["train"]
    write_npz(small.npz, train_images=255 - IMAGES)
    after = open_card(small.card, small.data).splits["train"]
    np.testing.assert_array_equal(after.images, 255 - before.images)


BUILDER = """
import sys, time
from pathlib import Path
from medtransfer.data.sources import npz
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card

card, data, ready, go = map(Path, sys.argv[1:])
decode, calls = npz.decode, []

def slow(source, folder):
    calls.append(source)
    time.sleep(0.2)
    return decode(source, folder)

npz.decode = slow
ready.touch()
while not go.exists():
    time.sleep(0.01)
fingerprint = open_task(load_card(card), folder=data).fingerprint
print(fingerprint, len(calls))
"""


def test_two_processes_may_build_at_once(small: Small, own_cache: Path, tmp_path: Path) -> None:
    """Of two builders one builds and the other waits; both get the same data."""
    ready = [tmp_path / "ready-0", tmp_path / "ready-1"]
    go = tmp_path / "go"
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, small.card, small.data, mark, go],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in ready
    ]
    try:
        while not all(mark.exists() for mark in ready):
            assert all(builder.poll() is None for builder in builders)
            time.sleep(0.02)
        go.touch()
        results = [builder.communicate(timeout=60)[0].split() for builder in builders]
    finally:
        for builder in builders:
            builder.kill()
    assert results[0][0] == results[1][0] == open_card(small.card, small.data).fingerprint
    assert sum(int(result[1]) for result in results) == 3
    assert len(entries(own_cache)) == 3
    assert not list((own_cache / "splits").glob("build-*"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("images.npy", truncate),
        ("images.npy", Path.unlink),
        ("labels.npy", truncate),
        ("meta.json", truncate),
        ("meta.json", lambda path: path.write_text("{}")),
        ("meta.json", lambda path: path.write_text("[]")),
    ],
)
def test_damaged_entry_is_built_again(
    small: Small, own_cache: Path, file: str, damage: Callable[[Path], Any]
) -> None:
    """A damaged store costs time, never a result."""
    expected = open_card(small.card, small.data)
    content = np.array(expected.splits["train"].images)
    fingerprint = expected.fingerprint
    for entry in entries(own_cache):
        damage(entry / file)
    task = open_card(small.card, small.data)
    assert task.fingerprint == fingerprint
    np.testing.assert_array_equal(task.splits["train"].images, content)
    assert len(entries(own_cache)) == 3


def test_failed_build_leaves_nothing(small: Small, own_cache: Path) -> None:
    """Images that turn out damaged while they stream leave no entry behind."""
    member = npy_header((60, 16, 16), "|u1") + bytes(60 * 256)
    replace_member(small.npz, "train_images.npy", member)
    content = bytearray(small.npz.read_bytes())
    at = content.find(bytes(60 * 256))
    content[at + 100] = 1  # the CRC no longer fits
    small.npz.write_bytes(content)
    assert "train_images" in refusal(small.card, small.data)
    assert entries(own_cache) == []


def test_content_hash_is_that_of_the_pixels(small: Small) -> None:
    """Compression, the file's name and its other splits do not enter the hash."""
    expected = open_card(small.card, small.data)
    np.savez(small.data / "plain.npz", **np.load(small.npz))
    for split, part in (("train", "train"), ("validation", "val"), ("in_domain", "test")):
        edit_card(small.card, **{split: {"npz": "plain.npz", "split": part}})
    plain = open_card(small.card, small.data)
    assert (small.data / "plain.npz").stat().st_size > small.npz.stat().st_size
    assert plain.splits["train"].sha256 == expected.splits["train"].sha256
    assert plain.fingerprint == expected.fingerprint


@pytest.mark.parametrize("colour", [False, True])
def test_streaming_in_batches_changes_nothing(
    small: Small, own_cache: Path, monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    """Images larger than one batch arrive whole and in order, with the same hash."""
    images = np.stack([IMAGES, 255 - IMAGES, IMAGES // 2], axis=-1) if colour else IMAGES
    write_npz(small.npz, train_images=images)
    whole = open_card(small.card, small.data).splits["train"]
    shutil.rmtree(own_cache)
    # 7 images a batch: the last batch is a part of one. Then less than one image.
    for size in (7 * images[0].nbytes + 5, 1):
        monkeypatch.setattr(npz_source, "_BATCH_BYTES", size)
        split = open_card(small.card, small.data).splits["train"]
        np.testing.assert_array_equal(split.images, images)
        assert split.sha256 == whole.sha256
        shutil.rmtree(own_cache)


def test_store_that_cannot_be_written_is_refused(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names BENCH_CACHE when decoded data cannot be kept."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file"))
    assert "set BENCH_CACHE" in refusal(small.card, small.data)


# Fingerprints.


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


# Draws.

COUNTS = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [40, 12, 3]))
IDS = [f"item-{row}" for row in range(len(COUNTS))]
GOLDEN_DRAWS = [[0, 6, 1, 7, 8, 2], [6, 9, 4, 1, 8, 2]]
GOLDEN_SEED = 5_481_088_838_130_554_655


def draw(shots: int | None, *, number: int = 0, task: str = "t") -> list[int]:
    return draw_items(COUNTS, IDS, shots=shots, task=task, draw=number).tolist()


def test_draws_are_nested() -> None:
    """The shots of a smaller budget are among those of a larger one, in the same order."""
    for number in range(5):
        one, five, ten = (draw(shots, number=number) for shots in (1, 5, 10))
        assert set(one) < set(five) < set(ten)
        for label in range(3):
            of_class = [[i for i in items if COUNTS[i] == label] for items in (one, five, ten)]
            assert of_class[0] == of_class[1][:1] and of_class[1] == of_class[2][:5]


@pytest.mark.parametrize("shots", [1, 3, 5, 10, 100])
def test_draws_are_stratified(shots: int) -> None:
    """Each class gives as many items as asked for, or all that it has."""
    items = draw(shots)
    assert len(set(items)) == len(items)
    expected = [min(shots, count) for count in (40, 12, 3)]
    assert np.bincount(COUNTS[items]).tolist() == expected


def test_all_items_are_one_draw() -> None:
    """At the full budget every item is taken, in the order of the split."""
    assert draw(None) == list(range(len(COUNTS)))


def test_draws_differ() -> None:
    """Draws, tasks and seeds with other names are other random choices."""
    choices = {tuple(draw(5, number=number)) for number in range(10)}
    choices |= {tuple(draw(5, task=task)) for task in ("a", "b")}
    assert len(choices) == 12
    assert seed_of("a", 1) != seed_of("a", 2) != seed_of("b", 2)
    assert 0 <= seed_of("a", 1) < 2**63


def test_draws_follow_the_items_not_the_rows() -> None:
    """A permuted copy of a split gives the same items of the same classes."""
    order = np.random.default_rng(2).permutation(len(COUNTS))
    ids = [IDS[row] for row in order]
    items = draw_items(COUNTS[order], ids, shots=5, task="t", draw=0)
    assert [ids[item] for item in items] == [IDS[item] for item in draw(5)]
    # With ids by row, as in a file, other images are drawn, but as many of each class.
    rows = [str(row) for row in range(len(COUNTS))]
    items = draw_items(COUNTS[order], rows, shots=5, task="t", draw=0)
    assert np.bincount(COUNTS[order][items]).tolist() == [5, 5, 3]


def test_draws_are_pinned() -> None:
    """Golden values: no version of any library moves a draw."""
    labels = np.arange(12) % 3
    ids = [str(row) for row in range(12)]
    found = [
        draw_items(labels, ids, shots=2, task="small", draw=number).tolist() for number in (0, 1)
    ]
    assert found == GOLDEN_DRAWS
    assert seed_of("small", "10-shot", 0) == GOLDEN_SEED


def test_feasible_budgets_are_real_subsets() -> None:
    """A budget must use less than the share; the full budget always fits."""
    assert feasible(items=100, groups=2, shots=39, share=0.8)
    assert not feasible(items=100, groups=2, shots=40, share=0.8)
    assert feasible(items=10, groups=2, shots=None, share=0.8)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_even(folds: int) -> None:
    """Folds differ by one item at most, as a whole and within each class."""
    rng = np.random.default_rng(folds)
    for _ in range(30):
        labels = rng.integers(0, rng.integers(1, 6), rng.integers(folds, 60))
        assigned = stratified_folds(labels, folds)
        for items in (assigned, *(assigned[labels == label] for label in np.unique(labels))):
            sizes = np.bincount(items, minlength=folds)
            assert len(sizes) == folds
            assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_hold_out_leaves_items_to_train_on(share: float) -> None:
    """Of each class something stays to train on, and something is held where there are two."""
    for count in range(1, 12):
        labels = np.repeat([0, 1], [count, 7])
        held = hold_out(labels, share)
        for label, items in ((0, count), (1, 7)):
            kept = int((~held[labels == label]).sum())
            assert 1 <= kept <= items - (items > 1)
        # The last ones of a class are held, so that the kept are a smaller draw.
        assert np.flatnonzero(held[:count]).tolist() == list(
            range(int((~held[:count]).sum()), count)
        )


# The real images.


def real_folder() -> Path | None:
    """Where the real images are, if they are there: data and a folder of task cards."""
    named = os.environ.get("BENCH_DATA")
    candidates = [Path(named), Path(named).parent] if named else []
    for folder in [*candidates, ROOT.parent / "shared" / "data"]:
        if (folder / "tasks").is_dir() and list(folder.glob("*.npz")):
            return folder
    return None


REAL = real_folder()  # before the tests' own cache hides BENCH_DATA
REAL_CARDS = sorted((REAL / "tasks").glob("*.yaml")) if REAL else []


@pytest.mark.skipif(not REAL_CARDS, reason="no real images (set BENCH_DATA to their folder)")
@pytest.mark.parametrize("card", REAL_CARDS, ids=lambda path: path.stem)
def test_real_images_agree_with_their_card(card: Path) -> None:
    """Every multiclass card of real images opens, with as many items as its files hold."""
    parsed = load_card(card)
    if parsed.kind != "multiclass":
        pytest.skip(f"{parsed.kind} data cannot be opened yet")
    task = open_task(parsed, folder=REAL)
    for name, source in parsed.splits.items():
        with np.load(REAL / source.npz) as arrays:
            labels = arrays[f"{source.split}_labels"].ravel()
            images = arrays[f"{source.split}_images"]
        split = task.splits[name]
        np.testing.assert_array_equal(split.labels, labels)
        assert split.images.shape == images.shape
        np.testing.assert_array_equal(split.images[[0, -1]], images[[0, -1]])


def test_large_data_stay_on_disk(tmp_path: Path) -> None:
    """Decoding 250 MB and reading them through takes a fraction of that in memory."""
    with zipfile.ZipFile(
        tmp_path / "large.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as file:
        for split, items in (("train", 20_000), ("val", 6), ("test", 6)):
            labels = (np.arange(items) % 3).astype(np.uint8)
            for name, shape, content in (
                ("images", (items, 64, 64, 3), [bytes(64 * 64 * 3)] * items),
                ("labels", (items,), [labels.tobytes()]),
            ):
                with file.open(f"{split}_{name}.npy", "w") as member:
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    npy_format.write_array_header_1_0(member, header)
                    for part in content:
                        member.write(part)
    card = write_card(tmp_path / "cards", "large", "large.npz", out_of_domain=None)
    code = f"""
import resource
from pathlib import Path
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

card, before = load_card(Path({str(card)!r})), peak()
split = open_task(card, folder=Path({str(tmp_path)!r})).splits["train"]
items = sum(len(batch) for batch in split.batches(128))
print(items, peak() - before)
"""
    environment = {**os.environ, "BENCH_CACHE": str(tmp_path / "cache")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    items, megabytes = run.stdout.split()
    # One batch of at most 16 MB is held, more than once while it is decompressed.
    assert int(items) == 20_000 and float(megabytes) < 100
