"""AdamW that clips gradients and updates in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from medtransfer.acceleration.switch import accelerated


class ClippingAdamW(torch.optim.AdamW):
    """torch's fused AdamW, which clips the gradients' norm and updates in one pass.

    Each parameter is handed over as a vector in the order of its memory, since the fused step of a
    processor copies what is not in the order of its dimensions, as channels-last weights are not.
    With the clip in the same pass (by the attribute through which torch's `GradScaler` has the
    fused step divide the gradients) a step of a ResNet-18 takes half of the time: 8 ms and not 16
    of one thread's 124 at 64 px. With ``BENCH_ACCELERATION=0`` torch clips first and updates then,
    unfused, which gives the same values but for rounding.

    Attributes:
        grad_scale: Divisor of the gradients in the next fused step.
    """

    grad_scale: Tensor | None = None

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float = 1e-3, clip: float | None = None
    ) -> None:
        """Take over the parameters.

        Args:
            groups: As torch's; ``params`` is a list of parameters.
            lr: The learning rate of groups without one.
            clip: The largest norm of all gradients together; larger ones are scaled down to it.
        """
        self._clip = clip
        self._vectors: list[tuple[nn.Parameter, nn.Parameter]] = []
        vectors = []
        for group in groups:
            pairs = [(nn.Parameter(_flatten(p), p.requires_grad), p) for p in group["params"]]
            self._vectors += pairs
            vectors.append({**group, "params": [vector for vector, _ in pairs]})
        super().__init__(vectors, lr=lr, fused=accelerated())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        super().zero_grad(set_to_none)
        for _, parameter in self._vectors:
            parameter.grad = None

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Clip and update."""
        for vector, parameter in self._vectors:
            if vector.data_ptr() != parameter.data_ptr():  # given other memory by the network
                vector.data = _flatten(parameter)
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            vector.grad = None if gradient is None else _flatten(gradient)
        if self._clip is not None:
            self._clip_gradients(self._clip)
        super().step(closure)

    def _clip_gradients(self, most: float) -> None:
        if not self.param_groups[0]["fused"]:  # of the groups: a resumed run stays as it began
            nn.utils.clip_grad_norm_([vector for vector, _ in self._vectors], most)
            return
        gradients = [vector.grad for vector, _ in self._vectors if vector.grad is not None]
        # As in nn.utils.clip_grad_norm_; a norm that is not finite gives NaN there and here.
        norm = nn.utils.get_total_norm(gradients)
        self.grad_scale = ((norm + 1e-6) / most).clamp(min=1).float()


def _flatten(tensor: Tensor) -> Tensor:
    """A view of all values in the order of memory, in which a network's copy has no gaps."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))
