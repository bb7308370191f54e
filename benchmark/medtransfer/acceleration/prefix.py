"""Compute the frozen first part of a network once for each image.

An epoch then costs only the trainable last part: if only the last stage of a network is
trained, the stages before it run once, not in every epoch. Only without augmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medtransfer.acceleration.switch import accelerated

if TYPE_CHECKING:
    from medtransfer.encoders.encoder import Encoder

_MOST = 2 * 2**30  # bytes of kept activations


class KeptPrefix:
    """Output of the frozen first part of a network, computed once for each image.

    It is the input of the first trainable module. From then on the network is called with
    one image, and that module gets the kept output of the batch: the first part costs one
    image a batch, for any family of networks. Only for images without augmentation.

    Attributes:
        passed: Images that ran through the first part, bool (N,); in a resumed run also those of
            the earlier call, whose FLOPs are not counted twice.
        passes: Number of passes to count.
    """

    def __init__(self, network: nn.Module, first: nn.Module, count: int) -> None:
        """Start with an empty cache.

        Args:
            network: Any module that takes images.
            first: Its first trainable module.
            count: Number of images.
        """
        self._network, self._first, self._count = network, first, count
        self._kept: Tensor | None = None
        self._there = torch.zeros(count, dtype=torch.bool)
        self._last = False  # whether it is channels-last
        self.passed = torch.zeros(count, dtype=torch.bool)
        self.passes = 0

    def __call__(self, inputs: Tensor, places: Tensor) -> Any:
        """Compute the output of the network for some of the images.

        Args:
            inputs: The images, (n, C, S, S).
            places: Numbers of the images, (n,), below ``count``.
        """
        self.passes += 1 if bool(self.passed[places].all()) else len(inputs)
        self.passed[places] = True
        if self._kept is None or not bool(self._there[places].all()):
            return self._record(inputs, places)
        kept = self._kept[places.to(self._kept.device)]
        if self._last:
            kept = kept.contiguous(memory_format=torch.channels_last)

        def replace(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (kept, *arguments[1:])

        with self._first.register_forward_pre_hook(replace):
            return self._network(_arrange(inputs[:1]))

    def _record(self, inputs: Tensor, places: Tensor) -> Any:
        def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            activations = arguments[0].detach()
            self._last = activations.ndim == 4 and not activations.is_contiguous()
            if self._kept is None:
                self._kept = activations.new_empty((self._count, *activations.shape[1:]))
            self._kept[places.to(activations.device)] = activations

        with self._first.register_forward_pre_hook(keep):
            output = self._network(_arrange(inputs))
        self._there[places] = True
        return output

    def beginning(self) -> nn.Module:
        """The first part alone, from images to the kept output."""
        return _Beginning(self._network, self._first)


class _Beginning(nn.Module):
    """A network up to one of its modules."""

    def __init__(self, network: nn.Module, first: nn.Module) -> None:
        super().__init__()
        self.network, self.first = network, first

    def forward(self, images: Tensor) -> Tensor:
        def stop(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            raise _Reached(arguments[0])

        try:
            with self.first.register_forward_pre_hook(stop):
                output: Tensor = self.network(images)
                return output
        except _Reached as reached:
            activations: Tensor = reached.args[0]
            return activations


class _Reached(Exception):
    """Stop the forward pass at the first trainable module."""


def _arrange(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def find_prefix(encoder: Encoder, count: int) -> KeptPrefix | None:
    """Find the frozen prefix of a network, or return ``None`` where nothing can be kept.

    It is tested on random images: kept and computed outputs must be equal to the last bit.
    ``None`` also with ``BENCH_ACCELERATION=0``.

    Args:
        encoder: The encoder, with frozen parts.
        count: Number of images.
    """
    network = encoder.network
    first = _first_that_learns(encoder) if accelerated() else None
    if first is None:
        return None
    shape = (2, encoder.card.input.channels, encoder.size, encoder.size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(encoder.device)
    trial = KeptPrefix(network, first, 2)
    encoder.eval()
    try:
        with torch.no_grad(), encoder.autocast():
            expected = trial(images, torch.arange(2))
            repeated = trial(images, torch.arange(2))
    except Exception:  # a network that cannot be cut in two
        return None
    kept = trial._kept
    if kept is None or not torch.equal(expected, repeated):
        return None
    if kept[0].numel() * kept.element_size() * count > _MOST:
        return None
    return KeptPrefix(network, first, count)


def _first_that_learns(encoder: Encoder) -> nn.Module | None:
    """Find the first called, largest module whose parameters are all trainable.

    ``None`` if a trainable part is called before a frozen one.
    """
    whole: list[nn.Module] = []

    def collect(module: nn.Module) -> None:
        parameters = list(module.parameters())
        if parameters and all(parameter.requires_grad for parameter in parameters):
            whole.append(module)
            return
        for child in module.children():
            collect(child)

    collect(encoder.network)
    if not whole or whole == [encoder.network]:
        return None
    called: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: called.append(module))
        for module in encoder.network.modules()
    ]
    shape = (1, encoder.card.input.channels, encoder.size, encoder.size)
    encoder.eval()
    with torch.no_grad():
        encoder.network(torch.zeros(shape, device=encoder.device))
    for hook in hooks:
        hook.remove()
    order = {id(module): number for number, module in reversed(list(enumerate(called)))}
    inside = {id(parameter) for module in whole for parameter in module.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in encoder.network.parameters()):
        return None  # a parameter of its own, such as a position embedding
    reached = [module for module in whole if id(module) in order]
    first = min(reached, key=lambda module: order[id(module)], default=None)
    if first is None:
        return None
    before = called[: order[id(first)]]
    frozen = any(True for module in before for _ in module.parameters(recurse=False))
    return first if frozen else None
