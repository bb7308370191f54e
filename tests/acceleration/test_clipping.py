"""The optimiser against torch's own step by step, on parameters of every layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medtransfer.acceleration.clipping import ClippingAdamW


class Mixed(nn.Module):
    """Convolutions, a matrix and vectors; one parameter takes no part in the output."""

    def __init__(self) -> None:
        """Draw the weights, always the same."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(4, 6, 3)
            self.pointwise = nn.Conv2d(6, 6, 1)
            self.scale = nn.Parameter(torch.ones(1, 6, 1, 1))
            self.head = nn.Linear(6, 3)
            self.unused = nn.Parameter(torch.ones(2, 3))
        self.double()

    def forward(self, images):
        """Logits."""
        maps = self.pointwise(self.convolution(images).relu()) * self.scale
        return self.head(maps.relu().mean((2, 3)))


def train(network, step, *, steps=5, transposed=False):
    """Losses of training on noise, and the parameters after it."""
    generator = torch.Generator().manual_seed(0)
    if transposed:  # gradients come in a layout that is not their parameters'
        for parameter in (network.convolution.weight, network.head.weight):
            parameter.register_hook(lambda gradient: gradient.mT.contiguous().mT)
    for _ in range(steps):
        images = torch.randn((5, 4, 7, 7), generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 3, (5,), generator=generator)
        network.zero_grad()
        (30 * nn.functional.cross_entropy(network(images), labels)).backward()
        step(network)
    return [parameter.detach().clone() for parameter in network.parameters()]


def groups_of(network):
    """Two groups of different settings."""
    head = list(network.head.parameters())
    rest = [p for name, p in network.named_parameters() if not name.startswith("head")]
    return [
        {"params": head, "lr": 1e-2, "weight_decay": 0.5},
        {"params": rest, "lr": 3e-3, "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("clip", [None, 0.1, 1e6])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_steps_are_those_of_torch(
    clip: float | None, channels_last: bool, transposed: bool
) -> None:
    """Clipping and updating in one pass, in the order of memory, gives the same parameters.

    torch's own step is the one that is neither fused nor given other layouts than its own.
    """
    network, reference = Mixed(), Mixed()
    if channels_last:
        network.to(memory_format=torch.channels_last)
    ours = ClippingAdamW(groups_of(network), clip=clip)
    theirs = torch.optim.AdamW(groups_of(reference), foreach=False)

    def step(reference):
        if clip is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), clip)
        theirs.step()

    result = train(network, lambda _: ours.step(), transposed=transposed)
    expected = train(reference, step)
    for ours_, theirs_ in zip(result, expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-7, rtol=1e-6)  # some powers are float32
    torch.testing.assert_close(network.unused, Mixed().unused)  # no gradient, no decay


def test_parameters_are_updated_where_they_are() -> None:
    """The network's tensors stay its own, and keep their layout."""
    network = Mixed().to(memory_format=torch.channels_last)
    before = {name: (p.data_ptr(), p.stride()) for name, p in network.named_parameters()}
    optimiser = ClippingAdamW(groups_of(network), clip=1.0)
    train(network, lambda _: optimiser.step())
    assert before == {name: (p.data_ptr(), p.stride()) for name, p in network.named_parameters()}


def test_gradients_are_forgotten_wherever_they_are() -> None:
    """After `zero_grad` a step moves nothing, momentum included."""
    network = Mixed()
    optimiser = ClippingAdamW(groups_of(network), clip=1.0)
    expected = train(network, lambda _: optimiser.step())
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in network.parameters())
    optimiser.step()
    torch.testing.assert_close([p.detach() for p in network.parameters()], expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_shows_in_the_parameters(value: float) -> None:
    """So that the loss of the next step tells that training diverged."""
    network = nn.Linear(3, 2)
    optimiser = ClippingAdamW([{"params": list(network.parameters())}], clip=1.0)
    network.weight.grad, network.bias.grad = torch.ones(2, 3), torch.tensor([value, 0.0])
    optimiser.step()
    assert not network.bias.isfinite().all()


def test_a_network_may_give_its_parameters_other_memory() -> None:
    """As recurrent layers on a GPU do, and networks that normalise a weight in place."""
    network, reference = nn.Linear(3, 2), nn.Linear(3, 2)
    reference.load_state_dict(network.state_dict())
    ours = ClippingAdamW([{"params": list(network.parameters())}], clip=1.0)
    theirs = torch.optim.AdamW(reference.parameters())
    for optimiser, layer in ((ours, network), (theirs, reference)):
        for _ in range(3):
            layer.weight.data = nn.functional.normalize(layer.weight.data)
            optimiser.zero_grad()
            layer(torch.ones(1, 3)).sum().backward()
            if optimiser is theirs:
                nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimiser.step()
    torch.testing.assert_close(network.state_dict(), reference.state_dict())
