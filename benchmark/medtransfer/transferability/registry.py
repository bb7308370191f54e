"""Registry of transferability scores. To add one, decorate a function with `register_score`.

A score is a pure function of arrays that predicts how well an encoder transfers to a task, without
adapting it; higher is better. Its positional parameters name its inputs (see
:data:`INPUTS`); those after the ``*`` are fixed values, which are part of its fingerprint.
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
    "labels": "their classes, (N,); of a task of several labels 0 or 1 for one of them at a time",
    "source_probabilities": "probabilities of the classes of pre-training, (N, S)",
    "views": "features of two jittered copies of some training images, two arrays (n, C)",
    "pixels": "vectors of some single pixels: for each level of the pyramid, by class, background "
    "being 0, one array (m, C) for each of some images",
}
"""Inputs that a score can be computed from."""

_OWN_PASSES = {"views", "pixels"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")

_FAMILIES = ["logme", "hscore", "leep", "transrate", "gbc", "parc", "neighbours", "robustness"]
_FAMILIES += ["consistency"]

Function = TypeVar("Function", bound=Callable[..., float])


class Undefined(Exception):
    """A score has no value for these arrays; the message gives the reason."""


@dataclass(frozen=True)
class Score:
    """A transferability score.

    Attributes:
        name: What ``--score`` takes.
        title: One line for readers.
        paper: The publication that proposed it.
        kinds: Kinds of tasks that it is defined for.
        function: Computes the score.
        revision: Number to raise when the function gives other numbers.
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
        """Return the fixed values: the protocol's if it has them, else the defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        fixed = settings.options(self.name)
        return {name: fixed.get(name, value) for name, value in defaults.items()}

    def fingerprint(self, settings: ScoreSettings, *, max_size: int, head: str | None) -> str:
        """Hash all that decides the number, except the encoder's vectors and the task.

        Args:
            settings: Settings of the protocol.
            max_size: Largest input size of the protocol.
            head: SHA-256 of the encoder's classifier of pre-training, if any.
        """
        needs = set(self.needs)
        inputs = settings.model_dump() if needs & _OWN_PASSES else {}
        classifier = head if "source_probabilities" in needs else None
        parts = [self.name, self.revision, self.options(settings), inputs, max_size, classifier]
        return digest([*parts, sorted(needs), self._source])

    @property
    def _source(self) -> str | None:
        """Return the source text of a user's score, which has no revisions."""
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
    """Register a function as a score, under its own name unless another is given.

    Args:
        title: One line for readers.
        paper: The publication that proposed it.
        kinds: Kinds of tasks that it is defined for.
        name: Name for ``--score``.
        revision: Number to raise when the function gives other numbers.

    Raises:
        InputError: When the name is taken, or a parameter is not one of :data:`INPUTS`.

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
        score_name = name or str(getattr(function, "__name__", "score"))
        if score_name in _REGISTRY:
            raise InputError(f"score '{score_name}' is registered twice; choose another name")
        if not _NAME.fullmatch(score_name):
            raise InputError(f"score '{score_name}': letters, digits, '.', '_' and '-' make a name")
        for kind in kinds:
            if kind not in get_args(Kind):
                raise InputError(
                    f"score '{score_name}': kinds: '{kind}'{suggest(kind, get_args(Kind))}"
                )
        score = Score(score_name, title, paper, tuple(kinds), function, revision)
        for need in score.needs:
            if need not in INPUTS:
                raise InputError(
                    f"score '{score_name}': unknown parameter '{need}'{suggest(need, INPUTS)}; "
                    "put fixed values after a *"
                )
        if len(score.needs) > 1 and (apart := sorted(_OWN_PASSES & set(score.needs))):
            raise InputError(
                f"score '{score_name}': {apart[0]} cover some images only, so they cannot be "
                "combined with other inputs"
            )
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise InputError(f"score '{score_name}': '{parameter.name}' needs a default")
        _REGISTRY[score_name] = score
        return function

    return decorate


@cache
def _load_all() -> None:
    """Import the shipped scores and those of installed packages."""
    for family in _FAMILIES:
        importlib.import_module(f"medtransfer.transferability.{family}")
    load_entry_points("medtransfer.scores")


def registered_scores() -> dict[str, Score]:
    """Return all registered scores by name, the shipped ones first, in their order."""
    _load_all()
    return dict(_REGISTRY)


def choose_scores(wanted: Sequence[str]) -> list[Score]:
    """Look up scores by name; without names, return all.

    Args:
        wanted: Names, or ``.py`` files that register scores.

    Raises:
        InputError: For an unknown name, or a file that registers no score.
    """
    scores = registered_scores()
    chosen: dict[str, Score] = {}
    for name in wanted:
        if name.endswith(".py"):
            chosen |= _run_file(Path(name))
        elif name in scores:
            chosen[name] = scores[name]
        else:
            raise InputError(f"--score: unknown score '{name}'{suggest(name, scores)}")
    return list((chosen or scores).values())


def _run_file(path: Path) -> dict[str, Score]:
    """Run a file that the user named, and return what it registered."""
    before = set(_REGISTRY)
    if not path.is_file():
        raise InputError(f"--score: {path}: no such file")
    run_file(path, name=f"_score_{path.stem}")
    new = {name: score for name, score in _REGISTRY.items() if name not in before}
    if not new:
        raise InputError(f"--score: {path}: registers no score; put @register_score on a function")
    return new
