"""Resolve ``--encoder`` to a card, the code that builds it, and its weights."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError, suggest
from medtransfer.core.plugins import run_file
from medtransfer.encoders.registry import Builder, Registration, find, forget, registered
from medtransfer.specs.encoder import (
    RANDOM_WEIGHTS,
    Architecture,
    EncoderCard,
    Input,
    PretrainingCard,
    Weights,
)

_LONGEST = 4000  # Linux takes paths of 4095 bytes
CHECKPOINTS = (".pt", ".pth", ".pth.tar", ".safetensors")  # .pth.tar: timm's training script


@dataclass(frozen=True)
class EncoderSource:
    """Inputs from which an encoder is built.

    Attributes:
        card: Its card.
        builder: Makes the network, unless timm does.
        weights: The local file of the weights, if any.
        notes: Notes for the user, one line each.
        file: The file that the user named, or the card in the folder; ``None`` for a name.
    """

    card: EncoderCard
    builder: Builder | None = None
    weights: Path | None = None
    notes: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def identity(self) -> str:
        """SHA-256 of everything that determines the output; needs no network to be built."""
        parts = [hash_file(self.weights)] if self.weights is not None else []
        if self.builder is not None:
            parts.append(_hash_source(self.builder))
        if parts:
            return self.card.identity(" ".join(parts))
        weights = self.card.weights
        return self.card.identity(weights.sha256 or weights.hub or "random")


def resolve_encoder(encoder: str, *, architecture: str | None = None) -> EncoderSource:
    """Find an encoder without building it.

    Args:
        encoder: A registered name, ``timm:NAME``, ``hf-hub:OWNER/NAME``, a checkpoint, a folder
            with ``encoder.yaml``, or a ``.py`` file that registers one. Code is run for the
            last one only, because the user named the file.
        architecture: timm's name of a checkpoint's architecture, or a registered encoder's name
            (then the checkpoint also takes that encoder's input).

    Raises:
        InputError: Naming the encoder and the remedy.
    """
    if len(encoder) > _LONGEST:
        raise InputError(f"unknown encoder '{encoder[:40]}...': longer than any path")
    if not encoder:
        raise InputError(
            "--encoder: empty; give a path, or a name that `bench list encoders` shows"
        )
    path = Path(encoder)
    if path.name.endswith(CHECKPOINTS):
        return _checkpoint(path, architecture)
    if architecture is not None:
        raise InputError(f"--architecture: only goes with a checkpoint file, not with '{encoder}'")
    if encoder.startswith(("timm:", "hf-hub:")):
        return _hub(encoder)
    if path.suffix == ".py":
        return _script(path)
    if path.is_dir() and encoder not in registered():
        return _folder(path)
    registration = find(encoder)
    if registration.card.weights.path is not None:
        raise InputError(
            f"{encoder}: weights.path: relative to an unknown folder; pass the .py file that "
            "registers it, or a folder with encoder.yaml"
        )
    return EncoderSource(registration.card, registration.builder)


def resolve_untrained(architecture: str) -> EncoderSource:
    """Resolve an architecture with random weights: a registered encoder's or timm's.

    Raises:
        InputError: For an unknown name.
    """
    registration = registered().get(architecture)
    if registration is None:
        near = suggest(architecture, registered())
        if "did you mean" in near:  # a better hint than timm's names, unless timm has it
            import timm

            if not timm.is_model(architecture.split(".")[0]):
                raise InputError(f"--architecture: timm has no '{architecture}'{near}")
        card = EncoderCard(
            name=_slug(architecture),
            architecture=Architecture(timm=architecture),
            input=_timm_input(architecture, origin="--architecture"),
            pretraining=RANDOM_WEIGHTS,
        )
        return EncoderSource(card)
    random = {"title": "", "weights": Weights(), "pretraining": RANDOM_WEIGHTS}
    return EncoderSource(registration.card.model_copy(update=random), registration.builder)


def dump_card(card: EncoderCard) -> str:
    """Write the card as YAML, without fields at their defaults."""
    data = card.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def hash_file(path: Path) -> str:
    """Hash a file's bytes by SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_source(builder: Callable[..., object]) -> str:
    try:
        source = inspect.getsourcefile(builder)
    except TypeError:
        raise InputError("an encoder's builder must be a function or a class") from None
    return hash_file(Path(source)) if source else "unknown"


def _slug(text: str) -> str:
    """Make a valid encoder name from free text."""
    text = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return text[:80] or "encoder"


def _existing(path: Path) -> Path:
    """Refuse a path that is not a readable file."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; a file is expected")
    if not path.is_file():
        folder = path.parent
        near = [p.name for p in folder.glob(f"*{path.suffix}")] if folder.is_dir() else []
        raise InputError(f"{path}: no such file{suggest(path.name, near)}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read: permission denied")
    return path


def _checkpoint(path: Path, architecture: str | None) -> EncoderSource:
    _existing(path)
    if architecture is None:
        # Imported here, so that a finished evaluation does not wait for torch.
        from medtransfer.encoders.checkpoints import read_checkpoint

        architecture = read_checkpoint(path).architecture
    if architecture is None:
        raise InputError(
            f"{path}: the checkpoint does not name its architecture; add --architecture NAME "
            "(timm's name, e.g. resnet18)"
        )
    registration = registered().get(architecture)
    name = _slug(path.name.removesuffix(".tar").rpartition(".")[0])
    if name in registered():
        raise InputError(
            f"{path}: '{name}' is the name of a registered encoder, whose results would be mixed "
            "with these; rename the file"
        )
    unknown = {"weights": Weights(path=str(path.name)), "pretraining": PretrainingCard()}
    if registration is not None:
        card = registration.card.model_copy(update={"name": name, "title": "", **unknown})
        return EncoderSource(
            card, registration.builder, path, (_preprocessing(card, architecture),), path
        )
    card = EncoderCard(
        name=name,
        architecture=Architecture(timm=architecture),
        input=_timm_input(architecture, origin="--architecture"),
        weights=Weights(path=path.name),
    )
    return EncoderSource(card, None, path, (_preprocessing(card, architecture),), path)


def _preprocessing(card: EncoderCard, architecture: str) -> str:
    given = card.input
    return (
        f"input as declared for {architecture}: {given.size} px (or the protocol's limit), mean "
        f"{given.mean}, std {given.std}, range {list(given.range)}; if yours differs, put the "
        "weights in a folder with an encoder.yaml that says so"
    )


def _timm_input(name: str, *, origin: str) -> Input:
    """Read the input that timm declares for an architecture or for its tagged weights."""
    import timm

    base = name.split(".")[0]
    if not timm.is_model(base):
        raise InputError(f"{origin}: timm has no '{name}'{suggest(base, timm.list_models())}")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        cfg = None
    if cfg is None:
        weights = timm.list_pretrained(f"{base}.*")
        raise InputError(f"{origin}: timm has no weights '{name}'{suggest(name, weights)}")
    return Input(size=cfg.input_size[-1], mean=list(cfg.mean), std=list(cfg.std))


def _hub(encoder: str) -> EncoderSource:
    """Resolve a name of timm or of the hub, without fetching weights."""
    kind, _, name = encoder.partition(":")
    if kind == "timm":
        card = EncoderCard(
            name=_slug(name),
            architecture=Architecture(timm=name.split(".")[0]),
            weights=Weights(hub=name),
            input=_timm_input(name, origin="--encoder"),
        )
        return EncoderSource(card)
    from medtransfer.encoders.timm_networks import hub_input

    card = EncoderCard(
        name=_slug(name),
        architecture=Architecture(timm=encoder),
        weights=Weights(hub=encoder),
        input=hub_input(encoder),
    )
    return EncoderSource(card)


def _script(path: Path) -> EncoderSource:
    """Run the user's file and return the encoder that it registers."""
    before = set(registered())
    new: list[Registration] = []
    try:
        run_file(_existing(path), name=f"_encoder_{_slug(path.stem)}")
    finally:  # unregistered, so that the file may be changed and run again
        new += [forget(added) for added in sorted(set(registered()) - before)]
    if len(new) != 1:
        names = ", ".join(registration.card.name for registration in new) or "none"
        raise InputError(f"{path}: must register exactly one encoder; it registered {names}")
    card = new[0].card
    return EncoderSource(card, new[0].builder, _weights_beside(card, path), file=path)


def _folder(path: Path) -> EncoderSource:
    """Resolve a folder with ``encoder.yaml`` and the weights it names. Runs no code."""
    file = path / "encoder.yaml"
    if not file.is_file():
        raise InputError(f"{path}: no encoder.yaml in this folder; add one")
    data = read_yaml(file)
    if isinstance(data, dict):
        data.setdefault("name", _slug(path.resolve().name))
    card = EncoderCard.parse(data, origin=str(file))
    if card.architecture.timm is None:
        raise InputError(f"{file}: architecture: only timm's are available here; use a .py file")
    return EncoderSource(card, None, _weights_beside(card, file), file=file)


def _weights_beside(card: EncoderCard, file: Path) -> Path | None:
    """Find the weights that a card names, relative to the card's folder."""
    if card.weights.path is None:
        return None
    folder = file.parent
    weights = folder / card.weights.path
    if not weights.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{file}: weights.path: must stay inside the folder")
    _existing(weights)
    if card.weights.sha256 and hash_file(weights) != card.weights.sha256:
        raise InputError(f"{weights}: SHA-256 differs from the one in {file}; the file is damaged")
    return weights
