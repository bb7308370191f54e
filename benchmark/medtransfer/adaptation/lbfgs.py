"""L-BFGS for many small problems at once (Nocedal and Wright 2006, algorithms 7.4 and 7.5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["minimise"]

_HISTORY = 20
_ITERATIONS = 500
_TOLERANCE = 1e-7


def minimise(
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], start: Tensor, scale: Tensor
) -> Tensor:
    """Minimise P functions together, each with its own history, step and end.

    Args:
        evaluate: From points (P', R, C) of some of the problems and these problems' numbers (P',)
            to values (P',) and gradients (P', R, C).
        start: (P, R, C); a problem whose gradient is zero here ends here.
        scale: (P, R, 1), the preconditioner: an estimate of the inverse Hessian's diagonal.

    Returns:
        The points (P, R, C) where no step promises a decrease that matters.
    """
    ends = start.clone()
    problems = torch.arange(len(start), device=start.device)
    x, length = start, start.new_ones(len(start))
    value, gradient = evaluate(x, problems)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(_ITERATIONS):
        direction = -_two_loop(gradient, steps, changes, scale)
        slope = _dot(direction, gradient)
        # The quadratic model promises a decrease of -slope/2; where no length was left, rounding
        # swallowed the last one.
        going = (-slope > _TOLERANCE * value.clamp(min=1e-12)) & (length > 0)
        if not bool(going.all()):
            ends[problems] = x
            if not bool(going.any()):
                return ends
            # What has ended costs nothing from here on.
            problems, x, scale, value = problems[going], x[going], scale[going], value[going]
            gradient, direction, slope = gradient[going], direction[going], slope[going]
            steps, changes = ([pair[going] for pair in pairs] for pairs in (steps, changes))
        length = torch.ones_like(value)
        for _ in range(30):  # backtracking to Armijo's condition, problem by problem
            candidate = x + length.view(-1, 1, 1) * direction
            new_value, new_gradient = evaluate(candidate, problems)
            worse = new_value > value + 1e-4 * length * slope
            if not bool(worse.any()):
                break
            length = torch.where(worse, length * 0.5, length)
        else:
            length = torch.where(worse, 0.0, length)
            candidate = x + length.view(-1, 1, 1) * direction
            new_value, new_gradient = evaluate(candidate, problems)
        steps.append(candidate - x)
        changes.append(new_gradient - gradient)
        del steps[:-_HISTORY], changes[:-_HISTORY]
        x, value, gradient = candidate, new_value, new_gradient
    ends[problems] = x
    return ends


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (P,) of two batches (P, R, C)."""
    return torch.einsum("prc,prc->p", a, b)


def _two_loop(
    gradient: Tensor, steps: list[Tensor], changes: list[Tensor], scale: Tensor
) -> Tensor:
    """The inverse Hessian's estimate times the gradient; a pair without curvature is skipped."""
    direction = gradient
    memory = []
    for step, change in zip(reversed(steps), reversed(changes), strict=True):
        curvature = _dot(step, change)
        rho = torch.where(curvature > 1e-30, 1 / curvature.clamp(min=1e-30), 0.0)
        alpha = rho * _dot(step, direction)
        direction = direction - alpha.view(-1, 1, 1) * change
        memory.append((rho, alpha, step, change))
    direction = scale * direction
    if steps:  # the preconditioner's overall size, from the newest pair
        curvature = _dot(steps[-1], changes[-1])
        norm = _dot(changes[-1], scale * changes[-1])
        factor = torch.where(curvature > 1e-30, curvature / norm.clamp(min=1e-300), 1.0)
        direction = direction * factor.view(-1, 1, 1)
    for rho, alpha, step, change in reversed(memory):
        beta = rho * _dot(change, direction)
        direction = direction + (alpha - beta).view(-1, 1, 1) * step
    return direction
