"""The errors that users are meant to see. Imports nothing, so that `bench --help` is quick."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "RunError", "plain", "suggest"]


class InputError(Exception):
    """The input is wrong: one line that names the file, the field and what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """


class RunError(Exception):
    """Right input, but the work could not be done: one line that says what is left of it.

    The command line prints it without a traceback and ends with exit code 1.
    """


def plain(text: str) -> str:
    """One line of a bounded length that moves no cursor, whatever others wrote."""
    return "".join(character if character.isprintable() else "?" for character in text[:1000])


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown ``name``: the closest known one, or all."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(choices) > 12:
        return ""
    return f"; known: {', '.join(choices)}" if choices else ""
