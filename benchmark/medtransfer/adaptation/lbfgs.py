"""L-BFGS for many small problems at once (Nocedal and Wright 2006, section 7.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_HISTORY = 20
_ITERATIONS = 1000
_REFRESH = 10
_TOLERANCE = 1e-7


def minimise(
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    curvature: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
) -> Tensor:
    """Minimise P functions together, each with its own history, step length and end.

    The Hessian's diagonal rescales the variables every few iterations: as a classifier grows
    confident, the curvature falls by orders of magnitude, and the initial diagonal becomes
    misleading (500 iterations were too few where 150 are enough).

    Args:
        evaluate: Maps points (P', R, C) of some problems and their numbers (P',) to values (P',)
            and gradients (P', R, C).
        curvature: Maps the same to the diagonals of the Hessians (P', R, C), above zero.
        start: (P, R, C); a problem whose gradient is zero here ends here.

    Returns:
        The points (P, R, C) at which no step predicts a relevant decrease.
    """
    ends = start.clone()
    problems = torch.arange(len(start), device=start.device)
    x, length = start, start.new_ones(len(start))
    value, gradient = evaluate(x, problems)
    history = _History(start)
    for iteration in range(_ITERATIONS):
        if iteration % _REFRESH == 0:
            history.scale_by(1 / curvature(x, problems))
        direction = -history.precondition(gradient)
        slope = _dot(direction, gradient)
        # The quadratic model predicts a decrease of -slope/2. A length of 0 means that rounding
        # hid the last decrease.
        active = (-slope > _TOLERANCE * value.clamp(min=1e-12)) & (length > 0)
        if not bool(active.all()):
            ends[problems] = x
            if not bool(active.any()):
                return ends
            # Drop finished problems, which would only cost time.
            problems, x, value, slope = problems[active], x[active], value[active], slope[active]
            gradient, direction = gradient[active], direction[active]
            history.keep(active)
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
        history.add(candidate - x, new_gradient - gradient)
        x, value, gradient = candidate, new_value, new_gradient
    ends[problems] = x
    return ends


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute inner products (P,) of two batches (P, R, C)."""
    return (a * b).flatten(1).sum(1)


class _History:
    """The newest M steps and gradient changes, and the inverse Hessian that they imply.

    The compact form of Byrd, Nocedal and Schnabel (1994, theorem 2.2) takes a few matrix products
    where the two-loop recursion takes 4 M sequential operations: with S and Y the steps and
    changes (M, D), Z the scaling of the variables, g their overall size, T the upper triangle of
    S Y' and E its diagonal,

        H = g Z + [S' gZY'] [T^-T (E + g Y Z Y') T^-1, -T^-T; -T^-1, 0] [S; gYZ].
    """

    def __init__(self, like: Tensor) -> None:
        """Start without steps for problems of the shape (P, R, C)."""
        count, size = len(like), like[0].numel()
        self.steps, self.changes = (like.new_zeros((count, _HISTORY, size)) for _ in range(2))
        # Inner products of steps with changes, and of changes with scaled changes.
        self.cross, self.gram = (like.new_zeros((count, _HISTORY, _HISTORY)) for _ in range(2))
        self.scale = like.new_ones((count, size))
        self.added = 0

    @property
    def _filled(self) -> int:
        return min(self.added, _HISTORY)

    def scale_by(self, scale: Tensor) -> None:
        """Set an estimate (P, R, C) of the diagonal of the inverse Hessian."""
        self.scale = scale.flatten(1)
        changes = self.changes[:, : self._filled]
        scaled = changes * self.scale.unsqueeze(1)
        self.gram[:, : self._filled, : self._filled] = changes @ scaled.transpose(1, 2)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Replace the oldest pair by a step and its gradient change, (P, R, C)."""
        step, change = step.flatten(1), change.flatten(1)
        # A pair without curvature carries no information.
        curved = ((step * change).sum(1, keepdim=True) > 1e-30).to(step)
        slot = self.added % _HISTORY
        self.steps[:, slot], self.changes[:, slot] = step * curved, change * curved
        self.added += 1
        steps, changes = self.steps[:, : self._filled], self.changes[:, : self._filled]
        newest = self.changes[:, slot].unsqueeze(2)
        self.cross[:, : self._filled, slot] = (steps @ newest).squeeze(2)
        along = changes @ self.steps[:, slot].unsqueeze(2)
        self.cross[:, slot, : self._filled] = along.squeeze(2)
        scaled = (changes @ (newest * self.scale.unsqueeze(2))).squeeze(2)
        self.gram[:, : self._filled, slot] = scaled
        self.gram[:, slot, : self._filled] = scaled

    def keep(self, problems: Tensor) -> None:
        """Keep some problems only, a mask (P,)."""
        self.steps, self.changes = self.steps[problems], self.changes[problems]
        self.cross, self.gram = self.cross[problems], self.gram[problems]
        self.scale = self.scale[problems]

    def precondition(self, gradient: Tensor) -> Tensor:
        """Multiply gradients (P, R, C) by the inverse Hessian."""
        flat = gradient.flatten(1)
        if not self.added:
            return (self.scale * flat).view_as(gradient)
        filled = self._filled
        steps, changes = self.steps[:, :filled], self.changes[:, :filled]
        # T is upper triangular in order of time; the slots may be rotated.
        oldest, newest = self.added % filled, (self.added - 1) % filled
        order = (torch.arange(filled, device=flat.device) - oldest) % filled
        cross, gram = self.cross[:, :filled, :filled], self.gram[:, :filled, :filled]
        diagonal = cross.diagonal(dim1=1, dim2=2)
        # An empty pair is all zeros and has no effect below; a 1 makes the system solvable.
        filler = torch.diag_embed((diagonal == 0).to(flat))
        factors = torch.linalg.lu_factor(cross * (order.unsqueeze(1) <= order) + filler)
        size = cross[:, newest, newest] / gram[:, newest, newest]
        size = torch.where(size > 0, size, 1.0).view(-1, 1, 1)

        first = torch.linalg.lu_solve(*factors, steps @ flat.unsqueeze(2))
        across = changes @ (self.scale * flat).unsqueeze(2)
        inner = diagonal.unsqueeze(2) * first + size * (gram @ first - across)
        second = torch.linalg.lu_solve(*factors, inner, adjoint=True)
        rest = flat.unsqueeze(1) - first.transpose(1, 2) @ changes
        result: Tensor = size * self.scale.unsqueeze(1) * rest + second.transpose(1, 2) @ steps
        return result.view_as(gradient)
