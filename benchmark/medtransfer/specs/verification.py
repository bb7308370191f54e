"""Whether a submission was verified as it stands. Knows files only, so that rankings may ask."""

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
    """What `bench verify --rerun` found right, and which bytes it looked at.

    Anybody can write such a file. It means as much as the one who ran the verification: a
    leaderboard runs it itself, and takes none that comes with a submission.
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
    """SHA-256 of each file of a submission that a result rests on, by its path inside it."""
    own = [folder / name for name in ("encoder.yaml", "records.jsonl", REPLICATES)]
    hashes = {}
    for path in [*own, *sorted(folder.glob("predictions/*"))]:
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def read_status(folder: Path) -> Status:
    """Say whether ``verification.json`` is of the submission's bytes as they are now.

    Args:
        folder: The submission. Without the file it is ``declared``; with one of other bytes
            ``changed``.
    """
    try:
        found = Verification.model_validate_json((folder / FILE).read_bytes())
        return "verified" if found.files == hash_files(folder) else "changed"
    except ValidationError:
        return "changed"
    except OSError:
        return "declared"
