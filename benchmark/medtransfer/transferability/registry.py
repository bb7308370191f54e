"""Transferability scores by name. One more score is one function with `register_score` on it.

A score is a pure function of arrays that says how well an encoder will transfer to a task, without
adapting it; the higher, the better. Its positional parameters name what it is computed from (see
:data:`INPUTS`); those behind the ``*`` are its fixed values, which stand in its fingerprint.
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
    """A score has no value for these arrays; the message says why."""


@dataclass(frozen=True)
class Score:
    """A transferability score.

    Attributes:
        name: What ``--score`` takes.
        title: One line for people.
        paper: Who proposed it, and where.
        kinds: Kinds of tasks that it is defined for.
        function: Computes it.
        revision: Raised when the function comes to give other numbers.
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
        """The function's fixed values: its own, or the protocol's where it has them."""
        parameters = inspect.signature(self.function).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        fixed = settings.options(self.name)
        return {name: fixed.get(name, value) for name, value in own.items()}

    def fingerprint(self, settings: ScoreSettings, *, max_size: int, head: str | None) -> str:
        """SHA-256 of all but the encoder's vectors and the task that decides the number.

        Args:
            settings: The protocol's.
            max_size: Largest input size, the protocol's.
            head: SHA-256 of the classifier of pre-training that the encoder comes with.
        """
        needs = set(self.needs)
        inputs = settings.model_dump() if needs & _OWN_PASSES else {}
        classifier = head if "source_probabilities" in needs else None
        parts = [self.name, self.revision, self.options(settings), inputs, max_size, classifier]
        return digest([*parts, sorted(needs), self._source])

    @property
    def _source(self) -> str | None:
        """Source text of a user's score, whose revision nobody raises."""
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
    """Make a function known as a score, under its own name unless another is given.

    Args:
        title: One line for people.
        paper: Who proposed it, and where.
        kinds: Kinds of tasks that it is defined for.
        name: What ``--score`` takes.
        revision: To be raised when the function comes to give other numbers.

    Raises:
        InputError: When the name is taken, or a parameter is none of :data:`INPUTS`.

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
        own = name or str(getattr(function, "__name__", "score"))
        if own in _REGISTRY:
            raise InputError(f"score '{own}' is registered twice; choose another name")
        if not _NAME.fullmatch(own):
            raise InputError(f"score '{own}': letters, digits, '.', '_' and '-' make a name")
        for kind in kinds:
            if kind not in get_args(Kind):
                raise InputError(f"score '{own}': kinds: '{kind}'{suggest(kind, get_args(Kind))}")
        score = Score(own, title, paper, tuple(kinds), function, revision)
        for need in score.needs:
            if need not in INPUTS:
                raise InputError(
                    f"score '{own}': unknown parameter '{need}'{suggest(need, INPUTS)}; fixed "
                    "values stand behind a *"
                )
        if len(score.needs) > 1 and (apart := sorted(_OWN_PASSES & set(score.needs))):
            raise InputError(
                f"score '{own}': {apart[0]} are of some images only, and go with nothing else"
            )
        parameters = inspect.signature(function).parameters.values()
        for parameter in parameters:
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise InputError(f"score '{own}': '{parameter.name}' needs a default")
        _REGISTRY[own] = score
        return function

    return decorate


@cache
def _load_all() -> None:
    """Import the shipped scores and the packages that offer some."""
    for family in _FAMILIES:
        importlib.import_module(f"medtransfer.transferability.{family}")
    load_entry_points("medtransfer.scores")


def registered_scores() -> dict[str, Score]:
    """All known scores by name, the shipped ones first, in their order."""
    _load_all()
    return dict(_REGISTRY)


def choose_scores(wanted: Sequence[str]) -> list[Score]:
    """The scores of these names, or all.

    Args:
        wanted: Names, or ``.py`` files that register some; none means all that are known.

    Raises:
        InputError: For an unknown name, or a file that registers none.
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
    """Run a file that the user named, and return what it registered."""
    before = set(_REGISTRY)
    if not path.is_file():
        raise InputError(f"--score: {path}: no such file")
    run_file(path, name=f"_score_{path.stem}")
    new = {name: score for name, score in _REGISTRY.items() if name not in before}
    if not new:
        raise InputError(f"--score: {path}: registers no score; put @register_score on a function")
    return new
