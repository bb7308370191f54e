"""Verification status of a submission, from its files alone, for use by rankings."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from medtransfer.core.files import replace
from medtransfer.specs.base import Spec
from medtransfer.specs.replicates import FILE as REPLICATES

FILE = "verification.json"

Status = Literal["verified", "declared", "changed"]


class RerunCell(Spec):
    """The primary metric of one test split of a cell that was run again."""

    cell: str = Field(description="Task, budget, adaptation and draw.")
    split: str = Field(description="Test split.")
    recorded: float | None = Field(description="In the submission.")
    again: float | None = Field(description="When it was run again.")


class Verification(Spec):
    """Result of `bench verify --rerun`, with hashes of the verified files.

    Anybody can write such a file, so it is worth as much as its author. A leaderboard verifies
    submissions itself, and accepts no file that comes with one.
    """

    schema_: Literal[1] = Field(default=1, alias="schema", description="Version of this format.")
    files: dict[str, str] = Field(description="SHA-256 of each file of the submission.")
    cells: list[RerunCell] = Field(min_length=1, description="What was run again.")
    medtransfer: str = Field(description="Version of this code.")
    commit: str = Field(description="Its commit, or unknown.")
    device: str = Field(description="What the cells were run on.")
    date: str = Field(description="ISO 8601, UTC.")

    def write(self, folder: Path) -> None:
        """Write the file of a submission, as a whole."""
        replace(folder / FILE, f"{self.model_dump_json(by_alias=True, indent=1)}\n".encode())


def hash_files(folder: Path) -> dict[str, str]:
    """Hash each file of a submission that its results depend on, by path (SHA-256)."""
    paths = [folder / name for name in ("encoder.yaml", "records.jsonl", REPLICATES)]
    hashes = {}
    for path in [*paths, *sorted(folder.glob("predictions/*"))]:
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def read_status(folder: Path) -> Status:
    """Compare ``verification.json`` with the submission's current files.

    Args:
        folder: The submission. Without the file it is ``declared``; with one of other bytes
            ``changed``.
    """
    try:
        verification = Verification.model_validate_json((folder / FILE).read_bytes())
        return "verified" if verification.files == hash_files(folder) else "changed"
    except ValidationError:
        return "changed"
    except OSError:
        return "declared"
