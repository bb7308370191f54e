"""The errors that users are meant to see. Imports little, so that `bench --help` is quick."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable
from pathlib import PurePath

_MOST = 1000  # characters of a message
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # full, or worn out


class _OneLine(Exception):
    """Its message is one line of a bounded length, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class InputError(_OneLine):
    """The input is wrong: one line that names the file, the field and what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """


class RunError(_OneLine):
    """Right input, but the work could not be done: one line that says what is left of it.

    The command line prints it without a traceback and ends with exit code 1.
    """


def plain(text: str) -> str:
    """One line of a bounded length that moves no cursor, whatever others wrote."""
    if len(text) > _MOST:  # what is wrong stands in the beginning, what would be right in the end
        text = f"{text[: _MOST - 305]} ... {text[-300:]}"
    return "".join(character if character.isprintable() else "?" for character in text)


def reason(error: Exception) -> str:
    """What the system says of a file, else the error's own words: numpy's of a full disk, say."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return said or type(error).__name__


def unwritable(what: str, error: OSError, *, then: str = "") -> InputError | RunError:
    """The error of a file that was not written: a full disk is no wrong input.

    Args:
        what: The option and the path that it names, or the path and a colon.
        error: The system's.
        then: What else to say, from the semicolon on.
    """
    short = error.errno is None and "requested and" in str(error)  # numpy's own words of it
    kind = RunError if error.errno in DISK or short else InputError
    return kind(f"{what} cannot be written: {reason(error)}{then}")


def describe(error: BaseException) -> str:
    """An error that is somebody else's in one line: type, message, and where it was raised."""
    message = " ".join(str(error).split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown ``name``: the closest known one, or all."""
    choices = sorted(known)
    lower = {choice.lower(): choice for choice in reversed(choices)}
    close = difflib.get_close_matches(name[:200].lower(), lower, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{lower[close[0]]}'?"
    if len(choices) > 12:
        return ""
    return f"; known: {', '.join(choices)}" if choices else ""
