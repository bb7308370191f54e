"""Archives that unpack to gigabytes, and how what is hostile must be refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

from numpy.lib import format as npy

from tests.conftest import Outcome

__all__ = ["GIBIBYTE", "bomb", "refuse"]

GIBIBYTE = 2**30


def bomb(path: Path, name: str, *, size: int) -> None:
    """An archive of one member that packs so many bytes of zeros into a thousandth."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as member,
    ):
        npy.write_array_header_1_0(member, header)  # type: ignore[arg-type]
        for _ in range(size // 2**24):
            member.write(bytes(2**24))


def refuse(outcome: Outcome, harm: Path, *words: str) -> None:
    """One line, exit code 2, and nothing ran."""
    assert outcome.code == 2, outcome.out + outcome.err
    assert "Traceback" not in outcome.err and "\x1b" not in outcome.err
    assert not harm.exists()
    for word in words:
        assert word in outcome.err, outcome.err
