"""Build an encoder, load its weights, and check its output."""

from __future__ import annotations

import torch

from medtransfer.acceleration.small_maps import multiply_small_maps
from medtransfer.core.errors import InputError
from medtransfer.encoders.checkpoints import Checkpoint, read_checkpoint
from medtransfer.encoders.encoder import Encoder, check_encoder, resolve_device
from medtransfer.encoders.resolution import EncoderSource, resolve_encoder
from medtransfer.encoders.timm_networks import TimmNetwork, build_timm
from medtransfer.specs.encoder import EncoderCard


def load_encoder(
    encoder: str, *, architecture: str | None = None, max_size: int = 224, device: str = "auto"
) -> Encoder:
    """Load any encoder that ``bench evaluate --encoder`` takes.

    Args:
        encoder: A registered name, ``timm:NAME``, ``hf-hub:OWNER/NAME``, a checkpoint, a folder
            with ``encoder.yaml``, or a ``.py`` file that registers one.
        architecture: Architecture of a checkpoint that does not name it.
        max_size: Largest input size in pixels, as in the protocol.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The encoder in eval mode. Called with uint8 images (N, H, W) or (N, H, W, 3), it returns
        float32 embeddings (N, D).

    Raises:
        InputError: Naming the file and the problem.

    Examples:
        >>> import medtransfer, torch
        >>> encoder = medtransfer.load_encoder("pixels")
        >>> encoder.card.title, encoder.size
        ('Raw pixels at 32 px', 32)
        >>> encoder(torch.zeros(4, 100, 80, dtype=torch.uint8)).shape
        torch.Size([4, 3072])
    """
    return build_encoder(
        resolve_encoder(encoder, architecture=architecture),
        max_size=max_size,
        device=resolve_device(device),
    )


def build_encoder(located: EncoderSource, *, max_size: int, device: torch.device) -> Encoder:
    """Build a resolved encoder.

    Raises:
        InputError: When its weights do not fit, or its output is not one vector per image.
    """
    card = located.card
    if card.weights.url is not None:
        raise InputError(f"{card.name}: weights.url: not supported yet; download it and use path")
    checkpoint = read_checkpoint(located.weights) if located.weights is not None else None
    notes: list[str] = []
    network: torch.nn.Module
    if located.builder is not None:
        network, size = _build_python(located, checkpoint), min(card.input.size, max_size)
    else:
        network, size, notes = build_timm(card, max_size=max_size, checkpoint=checkpoint)
    network.to(memory_format=torch.channels_last)
    multiply_small_maps(network)
    encoder = Encoder(card, network, identity=located.identity, size=size).to(device).eval()
    encoder.notes = tuple(notes)
    check_encoder(encoder)
    return encoder


def _build_python(located: EncoderSource, checkpoint: Checkpoint | None) -> torch.nn.Module:
    """Call the registered builder under a fixed seed, leaving the global generator untouched."""
    assert located.builder is not None
    card: EncoderCard = located.card
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network = located.builder()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{card.name}: its builder failed: {type(error).__name__}: {error}"
            ) from error
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"{card.name}: its builder returned no torch.nn.Module")
    if checkpoint is not None:
        _load_strictly(network, checkpoint)
    return network


def _load_strictly(network: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load a state dict, and refuse missing and unexpected names.

    A ``TimmNetwork`` is loaded inside its wrapper, where names are timm's.
    """
    inner = network.network if isinstance(network, TimmNetwork) else network
    try:
        result = inner.load_state_dict(checkpoint.tensors, strict=False)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise InputError(f"{checkpoint.path}: does not fit the architecture: {line}") from None
    heads = ("fc.", "head.", "classifier.")
    unexpected = [key for key in result.unexpected_keys if not key.startswith(heads)]
    if result.missing_keys or unexpected:
        raise InputError(
            f"{checkpoint.path}: does not fit the architecture: missing "
            f"{result.missing_keys[:3]}, unexpected {unexpected[:3]}"
        )
