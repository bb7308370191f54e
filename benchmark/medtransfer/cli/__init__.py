"""The command line: parse, call, print. What a command does is in the Python API."""

from __future__ import annotations

from medtransfer.cli.app import main

__all__ = ["main"]
