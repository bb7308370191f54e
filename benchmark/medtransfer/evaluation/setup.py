"""Build the runner: in the driver, and from a small set-up in each of its workers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from medtransfer.acceleration.malloc import keep_freed_memory
from medtransfer.core.errors import InputError
from medtransfer.core.version import __version__
from medtransfer.data.files.cache import data_folder
from medtransfer.data.split import TaskData
from medtransfer.data.store import open_task
from medtransfer.encoders.encoder import resolve_device
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.resolution import EncoderSource, resolve_encoder
from medtransfer.evaluation.request import Prepared
from medtransfer.evaluation.runner import Runner
from medtransfer.specs.protocol import Protocol
from medtransfer.specs.task import TaskCard

_SETTINGS = ("BENCH_ACCELERATION", "BENCH_CACHE", "BENCH_DATA")  # of the environment


@dataclass(frozen=True)
class WorkerSetup:
    """Everything that another process needs to run cells; small, and pickled.

    Attributes:
        encoder: As ``--encoder`` takes it; where there are ``files``, a path among them.
        architecture: timm's name of a checkpoint's architecture.
        protocol: The protocol.
        cards: The tasks by name. Their data are in the store, or are found or fetched again.
        data: Folder in which the cards' files are looked for.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: Of torch.
        identity: The encoder's, which the worker must come to.
        weights: SHA-256 of the encoder's weights, likewise.
        fingerprints: Of each task, likewise.
        files: Of the encoder, by path, for a machine that does not have them.
        settings: Environment variables, likewise.
        version: Of medtransfer.
    """

    encoder: str
    architecture: str | None
    protocol: Protocol
    cards: Mapping[str, TaskCard]
    data: Path | None
    device: str
    threads: int
    identity: str
    weights: str
    fingerprints: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    version: str = __version__

    def build(self) -> Runner:
        """Build the runner in the process that will use it.

        Raises:
            InputError: When encoder or data are not the driver's.
        """
        if self.version != __version__:
            raise InputError(
                f"medtransfer {__version__} is installed, {self.version} on the driver"
            )
        os.environ.update(self.settings)
        torch.set_num_threads(self.threads)
        folder = data_folder(self.data)
        data = {name: open_task(card, folder=folder) for name, card in self.cards.items()}
        for name, task in data.items():
            if task.fingerprint != self.fingerprints[name]:
                raise InputError(f"other data of task {name} than the driver's")
        with tempfile.TemporaryDirectory(prefix="medtransfer-") as name:
            for inside, content in self.files.items():
                path = Path(name) / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            encoder = str(Path(name) / self.encoder) if self.files else self.encoder
            source = resolve_encoder(encoder, architecture=self.architecture)
            runner = _build(source, data, self.protocol, self.device)
        if (runner.encoder.identity, runner.encoder.weights_sha256) != (
            self.identity,
            self.weights,
        ):
            raise InputError(
                f"another {runner.encoder.card.name} than the driver's; code that reads further "
                "files needs the same ones everywhere"
            )
        return runner


def set_up_worker(prepared: Prepared, runner: Runner, *, threads: int) -> WorkerSetup:
    """Describe a checked request for processes of this machine.

    Args:
        prepared: The request.
        runner: Built of it by the driver.
        threads: Of torch, in each process.
    """
    request = prepared.request
    return WorkerSetup(
        encoder=request.encoder,
        architecture=request.architecture,
        protocol=prepared.protocol,
        cards={name: data.card for name, data in prepared.data.items()},
        data=request.data.resolve() if request.data is not None else None,
        device=request.device,
        threads=threads,
        identity=runner.encoder.identity,
        weights=runner.encoder.weights_sha256,
        fingerprints={name: data.fingerprint for name, data in prepared.data.items()},
    )


def pack_files(setup: WorkerSetup, source: EncoderSource) -> WorkerSetup:
    """Add what another machine lacks: the encoder's files, and where data are looked for.

    Args:
        setup: For processes of this machine.
        source: The encoder's.
    """
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    if source.file is None:
        return replace(setup, settings=settings)
    # A folder gives a card without a name its own, a file its encoder.
    folder = f"encoder/{source.file.parent.resolve().name}"
    named = f"{folder}/{source.file.name}"
    files = {named: source.file.read_bytes()}
    if source.weights is not None:
        inside = source.card.weights.path or source.weights.name
        files[f"{folder}/{inside}"] = source.weights.read_bytes()
    encoder = folder if source.file.name == "encoder.yaml" else named
    return replace(setup, encoder=encoder, files=files, settings=settings)


def build_runner(prepared: Prepared) -> Runner:
    """Build the runner of a checked request in the driver.

    The driver of a cluster only counts and compares, and need not have the nodes' devices.
    """
    request = prepared.request
    device = "cpu" if request.executor == "ray" else request.device
    return _build(prepared.encoder, prepared.data, prepared.protocol, device)


def _build(
    source: EncoderSource, data: Mapping[str, TaskData], protocol: Protocol, device: str
) -> Runner:
    keep_freed_memory()
    encoder = build_encoder(source, max_size=protocol.max_size, device=resolve_device(device))
    return Runner(encoder, data, protocol)
