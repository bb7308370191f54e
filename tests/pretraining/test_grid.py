"""Grids of pre-training runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medtransfer.encoders.resolution import resolve_encoder
from medtransfer.specs.pretraining import Grid
from tests.conftest import ROOT, Bench, Small
from tests.helpers.pretraining import hash_weights, read_card


def test_a_grid_makes_and_evaluates_its_encoders(
    small: Small, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every encoder is made once, further runs start from their parents, one failure is said."""
    monkeypatch.chdir(tmp_path)
    grid = {
        "architectures": ["vit_mini"],
        "sources": {"home": ["small"]},
        "recipes": ["supervised", "simmim"],
        "images": [0.5, None],
        "epochs": 1,
        "size": 32,
        "evaluate": {"protocol": "quick", "tasks": ["small"], "adaptations": ["knn"],
                     "budgets": ["full"], "out": "results"},
        "adapt": [
            {"label": "onto", "source": "home", "recipe": "supervised", "onto": "home",
             "by": "simclr", "trainable": "partial:2"},
            {"label": "lost", "source": "home", "recipe": "supervised", "onto": "home",
             "by": "simclr", "trainable": "partial:nowhere"},
        ],
    }  # fmt: skip
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    options = ("--grid", path, "--tasks", small.cards, "--data", small.data)
    run = bench("pretrain", *options)
    assert run.code == 1
    assert "vit_mini-home-supervised-0.5-lost: --trainable: no layer 'nowhere'" in run.out
    names = sorted(path.parent.name for path in (tmp_path / "encoders").glob("*/encoder.yaml"))
    # The bare architecture is evaluated at the size of those that are pre-trained.
    assert (
        read_card(tmp_path / "encoders" / names.pop(names.index("vit_mini-random"))).input.size
        == 32
    )
    assert names == sorted(
        f"vit_mini-home-{recipe}-{images}{end}"
        for recipe, ends in (("supervised", ("", "-onto")), ("simmim", ("",)))
        for images in ("0.5", "all")
        for end in ends
    )
    made = {name: hash_weights(tmp_path / "encoders" / name) for name in names}
    card = read_card(tmp_path / "encoders" / "vit_mini-home-supervised-all-onto")
    assert card.pretraining.init == "vit_mini-home-supervised-all"
    evaluated = {path.parent.name for path in (tmp_path / "results").glob("*/records.jsonl")}
    assert evaluated == {*names, "vit_mini-random"}
    again = bench("pretrain", *options)
    assert again.code == 1
    assert not list((tmp_path / "encoders").glob(".*.lock"))
    assert {name: hash_weights(tmp_path / "encoders" / name) for name in names} == made


@pytest.mark.parametrize("path", sorted((ROOT / "baselines").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_grids_are_right(path: Path) -> None:
    """Their architectures, tasks and recipes exist."""
    from medtransfer.pretraining.grid import load_grid
    from medtransfer.specs.pretraining import Trainable, load_recipe
    from medtransfer.specs.task import load_suites, load_tasks

    grid = load_grid(path)
    assert {task for tasks in grid.sources.values() for task in tasks} <= set(load_tasks())
    for name in grid.architectures:
        assert resolve_encoder(name).card.pretraining.objective == "none"
    for recipe in [*grid.recipes, *(further.by for further in grid.adapt)]:
        load_recipe(recipe)
    for further in grid.adapt:
        Trainable.read(further.trainable)
    assert grid.evaluate is not None
    assert set(grid.evaluate.suites) <= set(load_suites())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipes": []}, "recipes: List should have at least 1 item"),
        ({"archs": ["a"]}, "archs: unknown field"),
        ({"adapt": [{"label": "a", "source": "x", "recipe": "simclr", "onto": "home",
                     "by": "simclr"}]}, "adapt.0.source: 'x' is none of the grid's"),
        ({"adapt": [{"label": "a", "source": "home", "recipe": "simclr", "onto": "home",
                     "by": "simclr", "trainable": "hybrid:1:1"}]}, "adapt.0: --trainable: hybrid"),
        ({"sources": {"home": ["phantom_cd"]}}, "sources.home: unknown task 'phantom_cd'; did"),
        ({"recipes": ["simcrl"]}, "unknown recipe 'simcrl'; did you mean"),
        ({"architectures": ["resnet"]}, "timm has no 'resnet'; did you mean"),
        ({"evaluate": {"protocol": "quik", "suites": ["phantom"]}}, "unknown protocol 'quik'"),
        ({"evaluate": {"protocol": "quick", "suites": ["fantom"]}}, "unknown suite 'fantom'"),
        ({"evaluate": {"protocol": "quick", "suite": ["a"]}}, "suite: unknown field; did you"),
        ({"evaluate": {"protocol": "quick"}}, "evaluate: name either suites or tasks"),
        ({"evaluate": {"protocol": "quick", "tasks": ["x"]}}, "evaluate.tasks: unknown task 'x'"),
        ({"evaluate": {"protocol": "quick", "tasks": ["phantom_ct"], "adaptations": ["kmn"]}},
         "has no adaptation 'kmn'"),
    ],
)  # fmt: skip
def test_wrong_grids_are_one_line(
    tmp_path: Path, bench: Bench, change: dict[str, object], message: str
) -> None:
    """The line names the file and the field."""
    path = tmp_path / "grid.yaml"
    right = {
        "architectures": ["vit_mini"],
        "sources": {"home": ["phantom_ct"]},
        "recipes": ["simclr"],
        "epochs": 1,
    }
    Grid.model_validate(right)
    path.write_text(yaml.safe_dump(right | change))
    run = bench("pretrain", "--grid", path)
    assert run.code == 2
    assert str(path) in run.err
    assert message in run.err
