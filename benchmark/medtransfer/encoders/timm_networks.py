"""Build timm's networks and load their weights.

timm is imported where a network is built: its import takes as long as that of torch, and encoders
outside timm do without.
"""

from __future__ import annotations

import math
import sys
import urllib.error
import urllib.request
from typing import Any

import torch
from torch import Tensor, nn

from medtransfer.core.errors import InputError
from medtransfer.encoders.checkpoints import Checkpoint
from medtransfer.specs.encoder import EncoderCard, Input

PYRAMID_STRIDES = (4, 8, 16, 32)

# Arguments of timm.create_model that other fields of the card set, or that make no encoder.
_RESERVED = {
    "cache_dir",
    "checkpoint_path",
    "features_only",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
}


class TimmNetwork(nn.Module):
    """Wrapper of a timm network: from images to pooled embeddings."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap ``network``, created without a classifier."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Embed normalised images (N, C, S, S) as (N, D), just before the classifier."""
        network: Any = self.network
        embedding: Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
        return embedding

    @property
    def fixed_size(self) -> bool:
        """Return whether the network takes only the input size that it was built for."""
        network: Any = self.network
        return bool(network.pretrained_cfg.get("fixed_input_size")) or hasattr(network, "pos_embed")

    def forward_intermediates(self, images: Tensor) -> list[Tensor]:
        """Compute four feature maps (N, C, H, W) of normalised images, shallow first.

        Their strides are the nearest to 4, 8, 16 and 32. If several of these share one stride, as
        in a plain transformer, they are spread over its depth. The network's final normalisation
        is applied where it fits, because features of a pre-norm network are unbounded without it.
        """
        network: Any = self.network
        levels = _levels([info["reduction"] for info in network.feature_info])
        indices = sorted(set(levels))
        maps = network.forward_intermediates(
            images, indices=indices, norm=True, intermediates_only=True, output_fmt="NCHW"
        )
        by_index = dict(zip(indices, maps, strict=True))
        return [by_index[level] for level in levels]


def _levels(reductions: list[float]) -> list[int]:
    """Choose the index of a feature map for each stride of the pyramid.

    Args:
        reductions: The stride of each map of a network, shallow first.
    """
    nearest = [min(reductions, key=lambda r: abs(math.log(r / s))) for s in PYRAMID_STRIDES]
    levels = []
    for i, reduction in enumerate(nearest):
        same_stride = [index for index, other in enumerate(reductions) if other == reduction]
        before, sharing = nearest[:i].count(reduction), nearest.count(reduction)
        # Of 12 blocks of one stride the 3rd, 6th, 9th and 12th; of a stage's one map that one.
        levels.append(same_stride[math.ceil(len(same_stride) * (before + 1) / sharing) - 1])
    return levels


def build_timm(
    card: EncoderCard, *, max_size: int, checkpoint: Checkpoint | None
) -> tuple[TimmNetwork, int, list[str]]:
    """Build a network and load its weights.

    ``create_model`` with ``pretrained_cfg_overlay`` is the only route that resamples position
    embeddings and relative position tables correctly when the input size differs.

    Args:
        card: The encoder's card.
        max_size: Largest input size in pixels.
        checkpoint: The weights; ``None`` for random or hub weights.

    Returns:
        The network, its input size in pixels, and notes for the user.

    Raises:
        InputError: When the weights do not fit, or are not available.
    """
    name = card.architecture.timm
    assert name is not None
    if reserved := sorted(_RESERVED & card.architecture.options.keys()):
        raise InputError(
            f"{card.name}: architecture.options: '{reserved[0]}' is not allowed; weights are named "
            "under weights, and the network returns one vector an image"
        )
    probe = _create(card, name, device="meta")
    size = _input_size(card, probe, max_size)
    options: dict[str, Any] = {}
    if probe.fixed_size or card.architecture.options.get("img_size"):
        options["img_size"] = size
    network, notes = _fill(card, name, probe, checkpoint, options)
    _drop_stages(card, network)
    return network, size, notes


def _fill(
    card: EncoderCard,
    name: str,
    probe: TimmNetwork,
    checkpoint: Checkpoint | None,
    options: dict[str, Any],
) -> tuple[TimmNetwork, list[str]]:
    """Build the whole network, with the weights that the card names."""
    if checkpoint is not None:
        notes = _check_names(checkpoint, probe, card)
        tensors = checkpoint.tensors
        if card.architecture.drop_stages:  # timm requires weights of dropped stages too
            inner = _create_random(card, name, options).network
            tensors = {**inner.state_dict(), **_native(tensors, inner)}
        options = {**options, "pretrained": True}
        options["pretrained_cfg_overlay"] = {"state_dict": tensors}
        return _create(card, name, origin=str(checkpoint.path), **options), notes
    if card.weights.hub is not None:
        hub = card.weights.hub
        _prefer_cache_when_offline()
        return _create(card, hub, origin=f"weights '{hub}'", pretrained=True, **options), []
    return _create_random(card, name, options), []


def _create_random(card: EncoderCard, name: str, options: dict[str, Any]) -> TimmNetwork:
    """Build a network with random weights from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _create(card, name, **options)


def _drop_stages(card: EncoderCard, network: TimmNetwork) -> None:
    """Drop the deepest stages (of a plain transformer: blocks), and keep the final norm.

    Raises:
        InputError: When timm cannot cut the network, or no stage would be left.
    """
    dropped = card.architecture.drop_stages
    if not dropped:
        return
    inner: Any = network.network
    stages = getattr(inner, "feature_info", ())
    if not hasattr(inner, "prune_intermediate_layers") or dropped >= len(stages):
        raise InputError(
            f"{card.name}: architecture.drop_stages: {dropped}, but timm's "
            f"{card.architecture.timm} has {len(stages)} separable stages"
        )
    pooling = _pooling(inner)
    inner.prune_intermediate_layers([len(stages) - dropped - 1], prune_norm=False, prune_head=False)
    if _pooling(inner) != pooling:  # newer versions of timm drop it with the head
        inner.reset_classifier(0, pooling)
    inner.feature_info = list(stages)[: len(stages) - dropped]


def _pooling(network: Any) -> str | None:
    """Return the name of the network's pooling, stored in the network or in its head."""
    for holder in (network, getattr(network, "head", None)):
        pool = getattr(holder, "global_pool", None)
        if pool is not None:
            return pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
    return None


def _prefer_cache_when_offline() -> None:
    """Try the hub once; without an answer, use earlier downloads without retries."""
    from huggingface_hub import constants

    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # any answer means that the hub is reachable
    except OSError:
        constants.HF_HUB_OFFLINE = True


def _create(
    card: EncoderCard,
    name: str,
    *,
    origin: str = "architecture",
    device: str = "cpu",
    **options: Any,
) -> TimmNetwork:
    import timm

    arguments = {**card.architecture.options, "num_classes": 0, **options}
    if card.pooling != "default":
        arguments["global_pool"] = card.pooling
    if card.input.channels != 3:
        arguments["in_chans"] = card.input.channels
    try:
        with torch.device(device):
            return TimmNetwork(timm.create_model(name, **arguments))
    except Exception as error:
        raise InputError(_explain(error, card, name, origin)) from error


def _explain(error: Exception, card: EncoderCard, name: str, origin: str) -> str:
    """Turn any error of timm, torch or the hub's client into one line."""
    import timm

    line = " ".join(str(error).split())[:300] or type(error).__name__
    if card.weights.hub is not None and not isinstance(error, (TypeError, KeyError)):
        return (
            f"{card.name}: {origin} could not be fetched (they are downloaded on first use and "
            f"need a network; offline, pass a checkpoint file with --architecture): {line}"
        )
    if not timm.is_model(name.split(".")[0]):
        return f"{card.name}: architecture: timm has no '{name}'"
    return f"{card.name}: {origin} does not fit timm's {name}: {line}"


def _input_size(card: EncoderCard, network: TimmNetwork, max_size: int) -> int:
    """Compute the input size: the card's, at most ``max_size``, rounded down to whole patches."""
    patch = getattr(getattr(network.network, "patch_embed", None), "patch_size", 1)
    multiple = patch if isinstance(patch, int) else max(patch)
    size = min(card.input.size, max_size) // multiple * multiple
    if size == 0:
        raise InputError(f"{card.name}: input: a patch of {multiple} px does not fit {max_size} px")
    return size


def _check_names(checkpoint: Checkpoint, probe: TimmNetwork, card: EncoderCard) -> list[str]:
    """Compare the checkpoint's names with the network's; an extra classifier is allowed.

    Raises:
        InputError: Naming missing and unexpected tensors.
    """
    inner: Any = probe.network
    allowed = set(inner.state_dict())
    given = set(_native(checkpoint.tensors, inner))
    _drop_stages(card, probe)
    expected = set(inner.state_dict())
    heads = inner.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    dropped = {key for key in given - allowed if key.startswith(tuple(f"{h}." for h in heads))}
    # Counters of batch norm are not weights; old checkpoints lack them.
    missing = {key for key in expected - given if not key.endswith("num_batches_tracked")}
    unexpected = given - allowed - dropped
    if missing or unexpected:
        raise InputError(
            f"{checkpoint.path}: not a checkpoint of timm's {card.architecture.timm}: "
            f"{_some('missing', missing)}; {_some('unexpected', unexpected)}"
        )
    return (
        [f"dropped the checkpoint's classifier ({', '.join(sorted(dropped))})"] if dropped else []
    )


def _native(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Translate names of foreign formats (DINO, MAE, ...) to timm's, where timm can."""
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return tensors
    try:
        translated: dict[str, Tensor] = translate(dict(tensors), network)
    except Exception:  # an unknown format; comparing the names reports it
        return tensors
    return translated


def _some(what: str, names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{len(names)} {what}" + (
        f" ({shown}{', ...' if len(names) > 3 else ''})" if names else ""
    )


def hub_input(name: str) -> Input:
    """Fetch the input that a model on the hub declares in its configuration.

    Raises:
        InputError: When the hub cannot be reached or has no such model.
    """
    import timm

    _prefer_cache_when_offline()
    try:
        model = timm.models.load_model_config_from_hf(name.removeprefix("hf-hub:"))[0]
        return Input(size=model["input_size"][-1], mean=list(model["mean"]), std=list(model["std"]))
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name}: its configuration could not be fetched (this needs a network): {line}"
        ) from error
