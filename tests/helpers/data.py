"""Small cards and files for tests of the data."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from medtransfer.core.errors import InputError
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.specs.task import load_card
from tests.conftest import draw_images


def open_card(card: Path, data: Path | None) -> TaskData:
    return open_task(load_card(card), folder=data)


def refusal(card: Path, data: Path | None) -> str:
    """The message with which a task is refused: always one line."""
    with pytest.raises(InputError) as caught:
        open_card(card, data)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def edit_card(card: Path, **changes: object) -> Path:
    fields = {**yaml.safe_load(card.read_text()), **changes}
    card.write_text(yaml.safe_dump(fields))
    return card


def replace_member(path: Path, name: str, content: bytes | None, *, to: str = "") -> None:
    """Rewrite one member of a zip archive; ``None`` keeps its bytes, ``to`` renames it."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    old = members.pop(name, b"")
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members, to or name: old if content is None else content}.items():
            archive.writestr(member, data)


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of an .npy file, whatever follows it."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


LABELS = np.arange(60, dtype=np.uint8)[:, None] % 3
IMAGES = draw_images(np.arange(60) % 3, seed=0)
