"""Whatever stands in a file, its reader gives a value or one line that says what is wrong."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtransfer.core.errors import InputError
from medtransfer.encoders.resolution import resolve_encoder
from medtransfer.specs.task import resolve_tasks
from tests.faults.table import Report
from tests.helpers.readers import READERS, SUBMISSION

# `make fuzz` tries each reader a thousand times, the test suite forty.
CASES = int(os.environ.get("BENCH_FUZZ", "40"))
SECONDS = 20  # after which a reader hangs


class Hang(BaseException):
    """A reader took too long; no reader's own `except Exception` may take it for a bad file."""


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Stop what hangs."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"hangs for more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(
    read: Callable[[Any], object], value: object, allowed: tuple[type[Exception], ...]
) -> None:
    """A value, or one line of a bounded length that moves no cursor."""
    try:
        with no_longer_than(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's and numpy's, of odd but readable files
            read(value)
    except InputError as error:
        message = str(error)
        assert message and "\n" not in message and "\r" not in message, ascii(message)
        assert "\x1b" not in message and len(message) < 20_000, ascii(message[:3000])
    except allowed:
        pass


def attack(
    name: str, cases: st.SearchStrategy[Any], once: Callable[[Any], None], report: Report
) -> None:
    """Try many cases, and report how many were tried and whether one crashed or hung."""
    tried = crashes = hangs = 0

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(value=cases)
    def many(value: Any) -> None:
        nonlocal tried
        tried += 1
        once(value)

    try:
        many()
    except Hang:
        hangs = 1
        raise
    except BaseException:
        crashes = 1
        raise
    finally:
        report(name, tried, crashes, hangs)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, tmp_path: Path, report: Report) -> None:
    """A damaged or malicious file is a value or one line, never a traceback and never a hang."""
    reader = READERS[name]
    path, good = tmp_path / reader.name, reader.content()
    if reader.name == "records.jsonl":
        (tmp_path / "encoder.yaml").write_bytes((SUBMISSION / "encoder.yaml").read_bytes())
    path.write_bytes(good)
    with suppress(InputError):  # a good one that belongs to others that are not here
        reader.read(path)

    def once(content: bytes) -> None:
        path.write_bytes(content)
        check(reader.read, path, reader.allowed)

    attack(name, reader.cases(good), once, report)


def test_a_hang_is_seen() -> None:
    """Also where the reader takes every exception for a bad file."""

    def sleep(path: object) -> None:
        try:
            time.sleep(5)
        except Exception:
            raise InputError("not a file that can be read") from None

    with pytest.raises(Hang), no_longer_than(0.05):
        sleep(None)


_TEXT = st.one_of(
    st.text(max_size=60),
    st.text(st.characters(max_codepoint=127), max_size=200),
    st.sampled_from(
        [
            *("timm:", "timm:../x", "timm:" + "x" * 999, "resnet18/", "~", ".", "..", "/", "\x00"),
            *("timm:resnet18.nothing", "http://localhost/x.pt", "file:///etc/passwd", "-e", "*.pt"),
            *("a" * 5000, "con", "hog\n", "hog ", "HOG", "x.pt", "x.py", "../x.safetensors"),
        ]
    ),
)


@pytest.mark.parametrize("what", ["--encoder", "--task"])
def test_names(what: str, report: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is typed for a name or an address is known, or refused in one line."""
    monkeypatch.chdir(tmp_path)

    def read(text: str) -> object:
        return (
            resolve_encoder(text)
            if what == "--encoder"
            else resolve_tasks(names=[text], suite=None)
        )

    cases = _TEXT.filter(lambda text: not text.startswith("hf-hub:"))  # which asks the network
    attack(what, cases, lambda text: check(read, text, ()), report)
