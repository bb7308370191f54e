"""Encoders in folders and in Python files."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor

from medtransfer.encoders import registry
from medtransfer.encoders.registry import registered
from medtransfer.encoders.resolution import dump_card, resolve_encoder
from medtransfer.specs.encoder import Architecture, EncoderCard, Weights
from tests.helpers.encoders import (
    SCRIPT,
    SMALL,
    first_weight,
    load,
    refusal,
    small_weights,
    write_folder,
    write_script,
)


def test_folder_with_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A folder says everything about its encoder; its name is the default."""
    folder = write_folder(tmp_path / "Mine", state, input={"size": 32}, title="My encoder")
    digest = hashlib.sha256((folder / "weights.pt").read_bytes()).hexdigest()
    plain = load(folder)
    assert (plain.card.name, plain.size, plain.card.title) == ("mine", 32, "My encoder")
    assert torch.equal(first_weight(plain), next(iter(state.values())))

    weights = {"path": "weights.pt", "sha256": digest}
    card = {**yaml.safe_load((folder / "encoder.yaml").read_text()), "weights": weights}
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    assert load(folder).identity == plain.identity
    card["weights"]["sha256"] = "0" * 64
    (folder / "encoder.yaml").write_text(yaml.safe_dump(card))
    assert "weights.pt: SHA-256 differs from the one in" in refusal(folder)


def test_dumped_card_is_read_back(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A card that was written is the card that is read."""
    folder = write_folder(tmp_path / "mine", state, input={"size": 32, "range": [-1, 1]})
    card = resolve_encoder(str(folder)).card
    (folder / "encoder.yaml").write_text(dump_card(card))
    assert resolve_encoder(str(folder)).card == card


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"weights": {"path": "../outside.pt"}}, ["weights.path: must stay inside the folder"]),
        ({"weights": {"path": "/outside.pt"}}, ["weights.path: must stay inside the folder"]),
        ({"weights": {"path": "wieghts.pt"}}, ["no such file", "did you mean 'weights.pt'?"]),
        ({"weights": {"url": "https://x/y.pt"}}, ["weights: sha256: required with url"]),
        ({"weights": {"url": "https://x", "sha256": "0" * 64}}, ["weights.url", "use path"]),
        ({"weights": {"path": "a", "hub": "b"}}, ["one of path, url, hub; found path and hub"]),
        ({"architecture": {"python": "os:getcwd"}}, ["only timm's are available here"]),
        ({"architecture": {"timm": "resnt18"}}, ["resnt18"]),
        ({"architecture": {"timm": SMALL, "options": {"depth": 3}}}, [SMALL, "depth"]),
        ({"architecture": {"timm": SMALL, "options": {"pretrained": True}}}, ["'pretrained'"]),
        ({"architecture": {"timm": SMALL, "options": {"checkpoint_path": "x"}}}, ["under weights"]),
        ({"architecture": {"timm": SMALL, "options": {"features_only": True}}}, ["features_only"]),
        ({"inptu": {}}, ["inptu: unknown field", "did you mean 'input'?"]),
        ({"input": {"mean": [0.5]}}, ["input: mean and std: one value for each of 3 channels"]),
        ({"input": {"range": [1, 0]}}, ["input: range: [low, high] with low < high"]),
        ({"input": {"std": [1, 0, 1]}}, ["input: std: must be positive"]),
        ({"name": "Not A Name"}, ["name: "]),
    ],
)
def test_wrong_folder_is_refused(
    card: dict[str, Any], words: list[str], state: dict[str, Tensor], tmp_path: Path
) -> None:
    """A folder is data: what it may say is bounded, and an error names its field."""
    torch.save(state, tmp_path / "outside.pt")
    message = refusal(write_folder(tmp_path / "mine", state, **card))
    for word in ("mine", *words):
        assert word in message


def test_folder_without_card_is_refused(tmp_path: Path) -> None:
    """Any other folder is not an encoder."""
    assert "no encoder.yaml in this folder" in refusal(tmp_path)


SECOND = SCRIPT.partition("def")[2].replace("mine", "other")


def test_script_registers_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's encoder is loaded by the file's name, again and again, and changed in between."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = write_script(tmp_path, SCRIPT)
    first = load(path)
    assert (first.card.name, first.width, first.size) == ("mine", 48, 32)
    assert load(path).identity == first.identity
    assert "mine" not in registered()
    before = path.stat().st_mtime_ns
    write_script(tmp_path, SCRIPT.replace("Pool2d(4)", "Pool2d(2)"))
    os.utime(path, ns=(before, before))  # as quick as an editor's second save
    changed = load(path)
    assert changed.width == 12 and changed.identity != first.identity
    assert list(tmp_path.iterdir()) == [path]


def test_script_may_have_the_name_of_a_module(tmp_path: Path) -> None:
    """A file called timm.py does not take timm's place."""
    load(write_script(tmp_path, SCRIPT, name="timm.py"))
    assert sys.modules["timm"] is timm


def test_script_names_weights_beside_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    """The weights that a registered card names are loaded, not left random."""
    torch.save(state, tmp_path / "w.pt")
    card = f'name="mine", architecture=Architecture(timm="{SMALL}"), weights=Weights(path="w.pt")'
    text = (
        "from medtransfer import EncoderCard, register\n"
        "from medtransfer.specs.encoder import Architecture, Weights\n"
        f"register(EncoderCard({card}))\n"
    )
    path = write_script(tmp_path, text)
    assert torch.equal(first_weight(load(path)), next(iter(state.values())))
    before = resolve_encoder(str(path)).identity
    torch.save(small_weights(seed=1), tmp_path / "w.pt")
    assert resolve_encoder(str(path)).identity != before
    write_script(tmp_path, text.replace("w.pt", "../w.pt"))
    assert "weights.path: must stay inside the folder" in refusal(path)


def test_registered_card_cannot_name_a_file() -> None:
    """By its name alone an encoder has no folder in which to look for its weights."""
    registry.register(
        EncoderCard(
            name="mine", architecture=Architecture(timm=SMALL), weights=Weights(path="w.pt")
        )
    )
    assert "mine: weights.path: relative to an unknown folder" in refusal("mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["must register exactly one encoder; it registered none"]),
        (SCRIPT + "\ndef" + SECOND, ["exactly one encoder; it registered mine, other"]),
        ("1 / 0", ["failed to run: ZeroDivisionError: division by zero"]),
        ("def (", ["failed to run: SyntaxError"]),
        (SCRIPT + "\nraise ValueError('a\\nb')", ["failed to run: ValueError: a b"]),
        (SCRIPT.replace('"mine"', '"pixels"'), ["'pixels' is registered twice"]),
        (SCRIPT.replace("return nn", "nn"), ["mine: its builder returned no torch.nn.Module"]),
        (SCRIPT.replace("Pool2d(4)", "Pool2d(4, 4)"), ["mine: its builder failed: TypeError"]),
        (SCRIPT.replace(", nn.Flatten()", ""), ["mine: returns shape (32, 3, 4, 4)"]),
    ],
    ids=["none", "two", "raises", "syntax", "raises late", "taken", "None", "builder", "output"],
)
def test_wrong_script_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    """A file that registers no usable encoder is refused, and leaves nothing registered."""
    before = registered()
    message = refusal(write_script(tmp_path, text))
    for word in words:
        assert word in message
    assert registered() == before


def test_missing_script_is_refused(tmp_path: Path) -> None:
    """A file that is not there meets the closest one that is."""
    write_script(tmp_path, SCRIPT)
    assert "no such file; did you mean 'script.py'?" in refusal(tmp_path / "scrip.py")
