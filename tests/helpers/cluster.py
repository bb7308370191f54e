"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


class Nodes:
    """A cluster of nodes with a core each, on this machine; the first one is there already."""

    def __init__(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "helpers" / "ray_nodes.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = self._read("address ").split()[1]

    def _read(self, beginning: str) -> str:
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith(beginning))

    def ask(self, what: str) -> None:
        """Have a node added ("add"), the first of these killed ("kill"), or the head ("behead")."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        self._read("done")
