"""Errors shown to users. Imports little, to keep `bench --help` quick."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable
from pathlib import PurePath

_MOST = 1000  # characters of a message
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # full, or worn out


class _OneLine(Exception):
    """Error whose message is one line of bounded length, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class InputError(_OneLine):
    """Wrong input. The message is one line: file, field and expected value.

    The command line prints it without a traceback and ends with exit code 2.
    """


class RunError(_OneLine):
    """Work that failed on valid input. The message is one line that says what was kept.

    The command line prints it without a traceback and ends with exit code 1.
    """


def plain(text: str) -> str:
    """Return untrusted text as one line of bounded length, without control characters."""
    if len(text) > _MOST:  # the beginning names the problem, the end the remedy
        text = f"{text[: _MOST - 305]} ... {text[-300:]}"
    return "".join(character if character.isprintable() else "?" for character in text)


def reason(error: Exception) -> str:
    """Explain a file error: the system's text, else the exception's own message."""
    message = getattr(error, "strerror", None) or " ".join(str(error).split())
    return message or type(error).__name__


def unwritable(what: str, error: OSError, *, then: str = "") -> InputError | RunError:
    """Make the error for a file that was not written; a full disk is not the user's input.

    Args:
        what: The option and the path that it names, or the path and a colon.
        error: The system's error.
        then: End of the message, from the semicolon on.
    """
    short = error.errno is None and "requested and" in str(error)  # numpy's text for a full disk
    kind = RunError if error.errno in DISK or short else InputError
    return kind(f"{what} cannot be written: {reason(error)}{then}")


def describe(error: BaseException) -> str:
    """Summarise a foreign error in one line: type, message, and where it was raised."""
    message = " ".join(str(error).split())[:500]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"


def suggest(name: str, known: Iterable[str]) -> str:
    """End an error message about an unknown ``name`` with the closest known name, or all."""
    choices = sorted(known)
    lower = {choice.lower(): choice for choice in reversed(choices)}
    close = difflib.get_close_matches(name[:200].lower(), lower, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{lower[close[0]]}'?"
    if len(choices) > 12:
        return ""
    return f"; known: {', '.join(choices)}" if choices else ""
