"""Scores by name and from a file, and the material that they are computed from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from medtransfer.core.errors import InputError
from medtransfer.specs.protocol import ScoreSettings
from medtransfer.transferability import registry
from medtransfer.transferability.inputs import jitter
from medtransfer.transferability.registry import (
    INPUTS,
    choose_scores,
    register_score,
    registered_scores,
)
from tests.helpers.transferability import SCORES, SETTINGS, Floats, Integers, draw


def test_a_score_of_ones_own_is_one_function() -> None:
    """Registered by a decorator; its inputs are its parameters, its fixed values its defaults."""
    before = dict(registry._REGISTRY)
    try:

        @register_score(title="Mine", paper="me")
        def mine(features: Floats, labels: Integers, *, power: float = 2) -> float:
            return float((np.abs(features) ** power).mean())

        score = registered_scores()["mine"]
        assert score.needs == ("features", "labels") and score.options(SETTINGS) == {"power": 2}
        with pytest.raises(InputError, match="'mine' is registered twice"):
            register_score(title="", paper="", name="mine")(mine)
        with pytest.raises(InputError, match="unknown parameter 'feature'; did you mean 'feat"):
            register_score(title="", paper="", name="other")(lambda feature: 0.0)
        with pytest.raises(InputError, match="views cover some images only"):
            register_score(title="", paper="", name="other")(lambda views, labels: 0.0)
        with pytest.raises(InputError, match="make a name"):
            register_score(title="", paper="", name="my score")(mine)
        with pytest.raises(InputError, match="'least' needs a default"):
            exec("def bare(features, *, least): return 0.0", own := {})
            register_score(title="", paper="")(own["bare"])
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)


def test_scores_by_name_and_from_a_file(tmp_path: Any) -> None:
    """Names, a file that registers one, and what is said where there is none."""
    assert [score.name for score in choose_scores(["gbc", "logme"])] == ["gbc", "logme"]
    assert [score.name for score in choose_scores([])] == list(SCORES)
    with pytest.raises(InputError, match="unknown score 'logm'; did you mean 'logme'"):
        choose_scores(["logm"])
    file = tmp_path / "size.py"
    file.write_text(
        "from medtransfer.transferability.registry import register_score\n"
        "@register_score(title='Number of items', paper='none')\n"
        "def size(features, labels):\n    return float(len(labels))\n"
    )
    before = dict(registry._REGISTRY)
    try:
        assert [score.name for score in choose_scores([str(file)])] == ["size"]
    finally:
        registry._REGISTRY.clear()
        registry._REGISTRY.update(before)
    file.write_text("x = 1\n")
    with pytest.raises(InputError, match="registers no score"):
        choose_scores([str(file)])
    with pytest.raises(InputError, match="no such file"):
        choose_scores([str(tmp_path / "nothing.py")])


@pytest.mark.parametrize("name", SCORES)
def test_shipped_scores_say_what_they_are(name: str) -> None:
    """A title, a paper, kinds and known inputs; the fingerprint follows the fixed values."""
    score = SCORES[name]
    assert score.title and score.paper and score.kinds and score.function.__doc__
    assert set(score.needs) <= set(INPUTS)

    def fingerprint(settings: ScoreSettings = SETTINGS, size: int = 224, head: str = "") -> str:
        return score.fingerprint(settings, max_size=size, head=head)

    own = fingerprint()
    assert own == fingerprint() != fingerprint(size=64)
    other = SETTINGS.model_copy(update={"margin": 0.25})
    assert (own != fingerprint(other)) == (name in ("robustness", "ccfv"))
    assert (own != fingerprint(head="of another classifier")) == (name == "leep")


@pytest.mark.parametrize("colour", [True, False])
def test_jitter_is_torchvisions(colour: bool) -> None:
    """Each image by its own amounts, like torchvision's functions in turn; grey stays grey."""
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand((4, 3, 8, 8), generator=generator) * 255).round()
    pixels = pixels if colour else pixels[:, :1].expand(-1, 3, -1, -1)
    draws = torch.rand((4, 4), generator=generator)
    found = jitter(pixels, draws, SETTINGS)
    for image, own, result in zip(pixels / 255, draws.tolist(), found, strict=True):
        image = transforms.adjust_brightness(image, 1 + 0.1 * (2 * own[0] - 1))
        image = transforms.adjust_contrast(image, 1 + 0.05 * (2 * own[1] - 1))
        image = transforms.adjust_saturation(image, 1 + 0.1 * (2 * own[2] - 1))
        image = transforms.adjust_hue(image, 0.05 * (2 * own[3] - 1))
        torch.testing.assert_close(result, image * 255, atol=0.05, rtol=0)


@pytest.mark.parametrize("score", ["nleep", "neighbours", "parc"])
def test_of_many_items_some_are_taken_evenly(score: str) -> None:
    """With a bound below the number of items, the score is of some of them, near that of all."""
    features, labels = draw(11, items=900)
    function, options = SCORES[score].function, {"most": 600}
    some = function(features, labels, **options)
    assert some != function(features, labels) == function(features, labels, most=900)
    assert some == pytest.approx(function(features, labels), abs=0.1)
