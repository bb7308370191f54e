"""Options are declared once: commands, requests and the Python API agree on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import typer

import medtransfer
from medtransfer.cli.app import app
from medtransfer.evaluation import options as evaluation
from medtransfer.pretraining import options as pretraining
from medtransfer.transferability import options as transferability
from tests.conftest import Bench

# Options of a command that are no options of the work itself.
COMMAND_ONLY = {
    "evaluate": {"dry_run", "debug"},
    "pretrain": {"grid"},
    "score": {"trajectory", "figure", "scores_csv", "outcomes"},
}
REQUESTS = {
    "evaluate": evaluation.Request,
    "pretrain": pretraining.Request,
    "score": transferability.Request,
}


def plain(value: Any) -> Any:
    """A default as data: a path as text, and nothing as one kind of nothing."""
    return str(value) if isinstance(value, Path) else value or None


def defaults_of(request: Callable[..., object]) -> dict[str, Any]:
    """Default of each option of a request."""
    return {
        field.name: None if field.default is MISSING else plain(field.default)
        for field in fields(request)  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", REQUESTS)
def test_commands_have_the_options_of_their_requests(name: str) -> None:
    """Each field of a request is an option with the same default and a help text."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option.name: option for option in command.params}
    expected = defaults_of(REQUESTS[name])
    assert set(options) - COMMAND_ONLY[name] == set(expected)
    assert {key: plain(options[key].default) for key in expected} == expected
    assert all(option.help for option in options.values())


def test_evaluate_has_the_options_of_its_request() -> None:
    """`medtransfer.evaluate` has the same options and defaults, and documents each of them.

    Only `jobs` differs: more than one process needs a guard in the caller's script.
    """
    parameters = inspect.signature(medtransfer.evaluate).parameters
    actual = {
        name: None if parameter.default is parameter.empty else plain(parameter.default)
        for name, parameter in parameters.items()
    }
    assert actual == {**defaults_of(evaluation.Request), "jobs": 1}
    assert next(iter(parameters)) == "encoder"
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "encoder")
    documented = inspect.getdoc(medtransfer.evaluate) or ""
    assert all(f"\n    {name}: " in documented for name in parameters)


def test_requests_reach_their_commands_as_declared(bench: Bench) -> None:
    """A wrong value is refused by the name of the option that was typed, not of the field."""
    for arguments, message in (
        (["evaluate", "-e", "pixels", "--jobs", "0"], "--jobs: 0"),
        (["pretrain", "--grid", "a.yaml", "--task", "x"], "--task: not with --grid"),
        (["score", "--import", "a.csv", "--tasks", "x"], "--tasks: not with --import"),
        (["pretrain", "--recipe", "simclr", "--images", "many"], "--images: 'many'"),
    ):
        outcome = bench(*arguments)
        assert outcome.code == 2 and message in outcome.err, outcome.err
