"""Log of failed cells, beside the ledger. It is no part of a submission."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from medtransfer.specs.record import Record

ERROR_LOG = "errors.log"


def log_failure(folder: Path, record: Record, traceback: str) -> None:
    """Append a failed cell to the log.

    A log that cannot be written ends nothing: the record has the error in one line.

    Args:
        folder: The submission's.
        record: The cell's.
        traceback: Of its error; empty where its process died.
    """
    text = traceback.strip() or str(record.error)
    block = f"{record.finished} {record.cell}\n{text}\n\n".encode(errors="backslashreplace")
    with suppress(OSError), (folder / ERROR_LOG).open("ab") as file:
        file.write(block)
