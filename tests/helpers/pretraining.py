"""Options, recipes and files of small pre-training runs."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import yaml

from medtransfer.specs.encoder import EncoderCard
from tests.conftest import Small

LEARNS = {"--architecture": "resnet_mini", "--size": 32, "--epochs": 4}


def arguments(small: Small, out: Path, **changes: object) -> list[str]:
    """The options of a short run; ``changes`` replace some, ``None`` leaves one out."""
    options: dict[str, object] = {
        "--recipe": "supervised",
        "--task": "small",
        "--tasks": small.cards,
        "--data": small.data,
        "--out": out,
        **LEARNS,
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return [
        str(part)
        for name, value in options.items()
        if value is not None
        for part in ([name] if value is True else [name, value])
    ]


def read_card(folder: Path) -> EncoderCard:
    """The card in an encoder's folder."""
    return EncoderCard.model_validate(yaml.safe_load((folder / "encoder.yaml").read_text()))


def hash_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for a process, and close its pipes; what it said of an error is shown."""
    _, error = process.communicate()
    if process.returncode > 0:
        print(error)
    return process.returncode
