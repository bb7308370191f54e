"""The Ray executor: cells as tasks of a cluster. Needs the extra ``ray``."""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtransfer.core.errors import InputError, RunError
from medtransfer.evaluation.executors.jobs import CELL_MEMORY, available_cores
from medtransfer.evaluation.executors.scheduling import WorkerCrash
from medtransfer.evaluation.runner import Finished, Runner
from medtransfer.evaluation.setup import WorkerSetup
from medtransfer.specs.record import Cell

_PATIENCE = 2.0  # seconds between checks for new nodes
# Share of a GPU by the encoder's number of parameters, each up to. Small networks leave most of a
# GPU idle; a batch that does not fit beside the others is split.
_GPU_SHARES = ((15e6, 0.25), (30e6, 0.5))


class RayExecutor:
    """Cells as Ray tasks, each with a processor core and, where available, a share of a GPU.

    The object store sends the set-up once to each node. Each Ray process builds its runner once.
    Ray's own retries are off, because the driver counts the crashes.
    """

    def __init__(
        self, setup: WorkerSetup, *, parameters: int, address: str | None, jobs: int | None
    ) -> None:
        """Join a cluster, or start one on this machine where no address is known.

        Args:
            setup: For the nodes, with the encoder's files.
            parameters: Of the encoder, which decide its share of a GPU.
            address: As ``ray.init`` takes it; by default ``RAY_ADDRESS``.
            jobs: Cells at a time; by default as many as the cluster has room for.

        Raises:
            InputError: When Ray is not installed, or nothing answers.
        """
        self._ray = ray = _import_ray()
        self._jobs, self._device, self._parameters = jobs, setup.device, parameters
        self._running: dict[Any, Cell] = {}
        self._own = not ray.is_initialized()
        if self._own:
            _join(ray, address, jobs)
        if self._device == "cuda" and not ray.cluster_resources().get("GPU"):
            self.close()
            raise InputError("--device: cuda needs a GPU, but no node of the cluster has one")
        self._setup = ray.put(setup)
        self._task = ray.remote(_run)

    @property
    def note(self) -> str:
        """Describe the cluster to the user."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        room = self._room() if self._jobs is None else min(self._jobs, self._room())
        return f"on a Ray cluster of {nodes} node{'s'[: nodes > 1]}, with room for {room} at a time"

    def slots(self) -> int:
        """Count the cells to submit at a time: twice as many as fit on the cluster.

        A queue keeps all nodes busy and lets a cluster that can grow see the demand. At least one
        cell is submitted even before the first node joins.
        """
        room = max(1, self._room())
        return min(self._jobs, room) if self._jobs is not None else 2 * room

    def submit(self, cell: Cell, previous: Mapping[str, Any] | None) -> None:
        """Hand the cell to Ray."""
        options = {**self._needs(), "max_retries": 0, "name": str(cell)}
        reference = self._task.options(**options).remote([self._setup], cell, previous)
        self._running[reference] = cell

    def wait(self) -> list[tuple[Cell, Finished | WorkerCrash]]:
        """Wait for the first cell that ends, or until it is time to see whether nodes joined.

        Raises:
            InputError: When a node cannot build the encoder or has not the data.
            RunError: When the driver's own node is gone, without which it can reach no other.
        """
        try:
            ready, _ = self._ray.wait(list(self._running), timeout=_PATIENCE)
            return [(self._running.pop(task), self._receive(task)) for task in ready]
        except (
            self._ray.exceptions.LocalRayletDiedError,
            OSError,
        ):  # OSError: older versions of Ray
            raise RunError(
                "the Ray node of this machine is gone; finished cells are saved; run ray stop and "
                "ray start, then the same command again to resume"
            ) from None

    def _receive(self, reference: Any) -> Finished | WorkerCrash:
        """Receive the result of a cell that has ended."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.LocalRayletDiedError:
            raise  # not caused by the cell
        except errors.RayTaskError as error:
            raise InputError(_one_line(error)) from None
        except errors.RayError as error:
            return WorkerCrash(_REASONS.get(type(error).__name__, type(error).__name__))
        if isinstance(answer, _Unfit):
            raise InputError(f"node {answer.node}: {answer.reason}")
        finished: Finished = answer
        return finished

    def close(self) -> None:
        """Cancel running cells, and stop the cluster if it was started here."""
        for reference in self._running:
            with suppress(Exception):  # a cluster that is gone runs no cells
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._own:
            with _later_interrupt():
                self._ray.shutdown()

    def _room(self) -> int:
        """Count the cells that the cluster can run at a time, as it is now."""
        have, needs = self._ray.cluster_resources(), self._needs()
        names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        return int(min(have.get(n, 0) / needs[own] for n, own in names.items() if needs[own]))

    def _needs(self) -> dict[str, float]:
        """Choose the resources of a cell, at most those of the largest node: else it never runs."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = max((node.get("GPU", 0) for node in nodes), default=0)
        memory = max((node.get("memory", 0) for node in nodes), default=0)
        return {
            "num_cpus": 1,
            "num_gpus": self._gpu_share() if gpus and self._device != "cpu" else 0,
            "memory": min(CELL_MEMORY, memory) if self._jobs is None else 0,
        }

    def _gpu_share(self) -> float:
        """Choose the share of a GPU for a cell."""
        shares = (share for most, share in _GPU_SHARES if self._parameters <= most)
        return next(shares, 1.0)


_REASONS = {
    "NodeDiedError": "the node that it ran on is gone",
    "WorkerCrashedError": "its process died (out of memory?)",
    "OutOfMemoryError": "its node ran out of memory",
}


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor: ray is not installed: pip install 'medtransfer[ray]'"
        ) from None
    return ray


def _join(ray: Any, address: str | None, jobs: int | None) -> None:
    """Connect to the cluster of an address; without one, start one of this machine's cores."""
    where = address or os.environ.get("RAY_ADDRESS")
    given, hint = "--address" if address else "RAY_ADDRESS", ""
    if where is not None and (match := re.fullmatch(r"([^/:]+):(\d+)", where)):
        try:  # Ray itself retries for minutes
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"{given}: no Ray cluster answers at {where}: {error}") from None
    job = ray.job_config.JobConfig()
    # Ray puts the driver's current folder first on the path of all workers, unless the job has a
    # working folder. A file torch.py there, shipped with an encoder, would be imported.
    job._runtime_env_has_working_dir = lambda: True
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if where is None:
        # By default Ray's processes have a low priority, and wait for hours on a busy machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options |= {"num_cpus": jobs or available_cores(), "include_dashboard": False}
        _hide_token()
    try:
        with _later_interrupt():
            ray.init(address=where or "local", job_config=job, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        problem = "--executor: Ray cannot be started"
        if where is not None:
            problem = f"{given}: cannot join the Ray cluster at {where}"
            hint = "; is a node up on this machine (ray stop, ray start), with the cluster's token?"
            if "RAY_AUTH_MODE" not in os.environ:
                hint = "; where it asks for a token: export RAY_AUTH_MODE=token"
        raise InputError(f"{problem}: {_one_line(error)}{hint}") from None


def _hide_token() -> None:
    """Make the folder of Ray's token private: the token lets anybody run code as this user.

    Ray creates it readable for everybody on the machine.
    """
    folder = Path.home() / ".ray"
    with suppress(OSError):  # no home folder, or another user's
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)


@contextmanager
def _later_interrupt() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, because inside it Ray ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        _import_ray().shutdown()
        raise KeyboardInterrupt


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@dataclass(frozen=True)
class _Unfit:
    """Node that cannot run cells, with the reason."""

    node: str
    reason: str


_runners: dict[Any, Runner] = {}


def _run(setup: list[Any], cell: Cell, previous: Mapping[str, Any] | None) -> Finished | _Unfit:
    """Run a cell in one of Ray's processes, which keeps the runner of the last set-up.

    The reference is in a list, so that Ray does not unpack it for every cell.
    """
    [reference] = setup
    if reference not in _runners:
        _runners.clear()
        try:
            built: WorkerSetup = _import_ray().get(reference)
            _runners[reference] = built.build()
        except InputError as error:
            return _Unfit(platform.node(), str(error))
    return _runners[reference].run(cell, previous)
