"""Command line: parse options, call the Python API, print results."""

from __future__ import annotations

from medtransfer.cli.app import main

__all__ = ["main"]
