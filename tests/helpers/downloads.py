"""What is served to the downloads under test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from medtransfer.core.errors import InputError, RunError
from medtransfer.data.files.remote import RemoteFile

BODY = np.random.default_rng(0).bytes(300_000)
WRONG = b"x" + BODY[1:]
MD5 = hashlib.md5(BODY).hexdigest()


class Shown:
    """What a front end was told."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.announced: list[str] = []
        self.advances: list[tuple[int, int | None]] = []
        self.warnings: list[str] = []
        self.finished = 0

    def announce(self, file: RemoteFile, url: str) -> None:
        """Keep the address."""
        self.announced.append(url)

    def advance(self, file: RemoteFile, done: int, total: int | None) -> None:
        """Keep the sizes."""
        self.advances.append((done, total))

    def warn(self, message: str) -> None:
        """Keep the line, which is one."""
        assert "\n" not in message
        self.warnings.append(message)

    def finish(self, file: RemoteFile) -> None:
        """Count."""
        self.finished += 1


def refusal(action: Callable[..., object], *arguments: object, **options: object) -> str:
    """The message with which something is refused: always one line."""
    with pytest.raises((InputError, RunError)) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert message and "\n" not in message
    return message
