"""Run third-party code: installed plugins and files that the user names, nothing else."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType

from medtransfer.core.errors import InputError


@contextmanager
def safe_path() -> Iterator[None]:
    """Keep the current folder off the module path of child Python processes.

    `multiprocessing` starts them by ``python -c``, which searches the current folder first: a
    ``random.py`` there, shipped with an encoder, would be run.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def load_entry_points(group: str) -> None:
    """Import the installed packages that register under a group of entry points.

    Raises:
        InputError: When one cannot be imported.
    """
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            raise InputError(
                f"the installed package behind entry point '{entry.name}' ({group}) cannot be "
                f"imported: {error}"
            ) from error


def run_file(path: Path, *, name: str) -> None:
    """Run a Python file that the user named, as a module that can be looked up afterwards.

    Args:
        path: The file.
        name: The module's name; must differ from every module that the file may import.

    Raises:
        InputError: When it fails.
    """
    loader = _AsWritten(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where inspect and pickle look its functions up
    try:
        loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path}: failed to run: {type(error).__name__}: {line}") from error


class _AsWritten(SourceFileLoader):
    """Loader that compiles the file's current content, without a cache.

    Python's own loader reuses the compiled file while size and modification time (in whole
    seconds) are unchanged, and writes one beside the source.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)
