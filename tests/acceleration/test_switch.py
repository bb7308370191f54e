"""``BENCH_ACCELERATION=0`` turns every trick off, and the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medtransfer.acceleration import malloc
from medtransfer.acceleration.clipping import ClippingAdamW
from medtransfer.acceleration.prefix import find_prefix
from medtransfer.acceleration.small_maps import multiply_small_maps
from medtransfer.pretraining.freezing import choose_trainable
from tests.helpers.pools import make_encoder


def train(*, steps: int = 4) -> tuple[np.ndarray, bool]:
    """Weights of a small network after some clipped steps, and whether they were fused."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    multiply_small_maps(network)
    optimiser = ClippingAdamW([{"params": list(network.parameters())}], lr=1e-2, clip=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = network(torch.randn(8, 3, 4, 4)).float().square().mean()
        loss.backward()
        optimiser.step()
    weights = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    return weights.numpy(), bool(optimiser.param_groups[0]["fused"])


def test_training_gives_the_same_weights_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products and the fused step change nothing but rounding."""
    fast, fused = train()
    monkeypatch.setenv("BENCH_ACCELERATION", "0")
    slow, unfused = train()
    assert (fused, unfused) == (True, False)
    # Gradients are of bf16: a sign that flips near zero moves a weight by one step of 0.01.
    assert np.linalg.norm(fast - slow) < 0.02 * np.linalg.norm(slow)


def test_a_resumed_run_steps_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch does not change the steps of a state that was stored under the other setting."""
    parameter = nn.Parameter(torch.ones(3))
    stored = ClippingAdamW([{"params": [parameter]}], clip=0.1).state_dict()
    monkeypatch.setenv("BENCH_ACCELERATION", "0")
    resumed = ClippingAdamW([{"params": [parameter]}], clip=0.1)
    resumed.load_state_dict(stored)
    parameter.grad = torch.full((3,), 10.0)
    resumed.step()
    assert resumed.param_groups[0]["fused"] and resumed.grad_scale is not None


def test_the_switch_turns_the_other_tricks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """No prefix is kept, no convolution is replaced, and malloc stays as it is."""
    encoder = make_encoder("resnet_mini")
    choose_trainable(encoder, 1)
    assert find_prefix(encoder, 8) is not None
    monkeypatch.setenv("BENCH_ACCELERATION", "0")
    assert find_prefix(encoder, 8) is None
    layer = nn.Conv2d(3, 4, 3)
    multiply_small_maps(layer)
    assert "_conv_forward" not in vars(layer)
    monkeypatch.setattr(malloc, "glibc", lambda: pytest.fail("malloc was set"))
    malloc.keep_freed_memory()
