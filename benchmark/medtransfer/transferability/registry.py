"""Registry of transferability scores. To add one, decorate a function with `register_score`.

A score is a pure function of arrays that predicts how well an encoder transfers to a task, without
adaptation; higher is better. Its positional parameters name its inputs (see :data:`INPUTS`); its
keyword-only parameters are fixed values, which enter its fingerprint.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from medtransfer.core.documents import digest
from medtransfer.core.errors import InputError, suggest
from medtransfer.core.plugins import load_entry_points, run_file
from medtransfer.specs.protocol import ScoreSettings
from medtransfer.specs.task import Kind

INPUTS = {
    "features": "frozen features of the training images, (N, D); those of the probes",
    "labels": "their classes, (N,); with several labels 0 or 1 for one label at a time",
    "source_probabilities": "probabilities of the classes of pre-training, (N, S)",
    "views": "features of two jittered copies of some training images, two arrays (n, C)",
    "pixels": "vectors of sampled pixels: for each level of the pyramid, by class (0 is "
    "background), one array (m, C) for each of some images",
}
"""Possible inputs of a score."""

_OWN_PASSES = {"views", "pixels"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")

_FAMILIES = ["logme", "hscore", "leep", "transrate", "gbc", "parc", "neighbours", "robustness"]
_FAMILIES += ["consistency"]

Function = TypeVar("Function", bound=Callable[..., float])


class Undefined(Exception):
    """A score has no value for these arrays; the message says why."""


@dataclass(frozen=True)
class Score:
    """A transferability score.

    Attributes:
        name: What ``--score`` takes.
        title: One line for people.
        paper: Authors, title and venue.
        kinds: Kinds of tasks for which it is defined.
        function: The function.
        revision: Number to raise when the function's values change.
    """

    name: str
    title: str
    paper: str
    kinds: tuple[Kind, ...]
    function: Callable[..., float]
    revision: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        """Names from :data:`INPUTS`, in the order of the function's parameters."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    def options(self, settings: ScoreSettings) -> dict[str, Any]:
        """Return the fixed values: the function's defaults, overridden by the protocol."""
        parameters = inspect.signature(self.function).parameters.values()
        fixed = settings.options(self.name)
        return {
            p.name: fixed.get(p.name, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY
        }

    def fingerprint(self, settings: ScoreSettings, *, max_size: int, head: str | None) -> str:
        """Hash all that decides the value besides the encoder's vectors and the task (SHA-256).

        Args:
            settings: Score settings of the protocol.
            max_size: Largest input size of the protocol.
            head: SHA-256 of the encoder's classifier of pre-training.
        """
        needs = set(self.needs)
        inputs = settings.model_dump() if needs & _OWN_PASSES else {}
        classifier = head if "source_probabilities" in needs else None
        parts = [self.name, self.revision, self.options(settings), inputs, max_size, classifier]
        return digest([*parts, sorted(needs), self._source])

    @property
    def _source(self) -> str | None:
        """Source text of a user's score, in place of a revision that nobody raises."""
        module = inspect.getmodule(self.function)
        if module is None or module.__name__.startswith("medtransfer."):
            return None
        try:
            return inspect.getsource(module)
        except (OSError, TypeError):
            return None


_REGISTRY: dict[str, Score] = {}


def register_score(
    *,
    title: str,
    paper: str,
    kinds: Sequence[Kind] = ("multiclass", "multilabel"),
    name: str | None = None,
    revision: int = 1,
) -> Callable[[Function], Function]:
    """Register a function as a score, by default under its own name.

    Args:
        title: One line for people.
        paper: Authors, title and venue.
        kinds: Kinds of tasks for which it is defined.
        name: What ``--score`` takes.
        revision: Number to raise when the function's values change.

    Raises:
        InputError: When the name is taken or invalid, a kind or a parameter is unknown, or a
            keyword-only parameter has no default.

    Examples:
        >>> import numpy as np
        >>> from medtransfer.transferability.registry import register_score, registered_scores
        >>> @register_score(title="Spread of the features", paper="none", kinds=["multiclass"])
        ... def spread(features, *, power=2):
        ...     return float((abs(features - features.mean(axis=0)) ** power).mean())
        ...
        >>> spread(np.array([[1.0, 2.0], [3.0, 4.0]]))
        1.0
        >>> registered_scores()["spread"].needs
        ('features',)
    """

    def decorate(function: Function) -> Function:
        key = name or str(getattr(function, "__name__", "score"))
        if key in _REGISTRY:
            raise InputError(f"score '{key}' is registered twice; choose another name")
        if not _NAME.fullmatch(key):
            raise InputError(f"score '{key}': use letters, digits, '.', '_' and '-' in its name")
        for kind in kinds:
            if kind not in get_args(Kind):
                raise InputError(f"score '{key}': kinds: '{kind}'{suggest(kind, get_args(Kind))}")
        score = Score(key, title, paper, tuple(kinds), function, revision)
        for need in score.needs:
            if need not in INPUTS:
                raise InputError(
                    f"score '{key}': unknown parameter '{need}'{suggest(need, INPUTS)}; put fixed "
                    "values behind a *"
                )
        if len(score.needs) > 1 and (alone := sorted(_OWN_PASSES & set(score.needs))):
            raise InputError(
                f"score '{key}': {alone[0]} cover some images only, so no other input goes with "
                "them"
            )
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise InputError(f"score '{key}': '{parameter.name}' needs a default")
        _REGISTRY[key] = score
        return function

    return decorate


@cache
def _load_all() -> None:
    """Import the shipped scores and those of installed packages."""
    for family in _FAMILIES:
        importlib.import_module(f"medtransfer.transferability.{family}")
    load_entry_points("medtransfer.scores")


def registered_scores() -> dict[str, Score]:
    """Return all known scores by name, the shipped ones first."""
    _load_all()
    return dict(_REGISTRY)


def choose_scores(wanted: Sequence[str]) -> list[Score]:
    """Choose scores by name, or all.

    Args:
        wanted: Names, or ``.py`` files that register scores; empty for all known scores.

    Raises:
        InputError: For an unknown name, or a file that registers no score.
    """
    known = registered_scores()
    chosen: dict[str, Score] = {}
    for name in wanted:
        if name.endswith(".py"):
            chosen |= _run_file(Path(name))
        elif name in known:
            chosen[name] = known[name]
        else:
            raise InputError(f"--score: unknown score '{name}'{suggest(name, known)}")
    return list((chosen or known).values())


def _run_file(path: Path) -> dict[str, Score]:
    """Run the user's file and return the scores that it registered."""
    before = set(_REGISTRY)
    if not path.is_file():
        raise InputError(f"--score: {path}: no such file")
    run_file(path, name=f"_score_{path.stem}")
    new = {name: score for name, score in _REGISTRY.items() if name not in before}
    if not new:
        raise InputError(f"--score: {path}: registers no score; put @register_score on a function")
    return new
