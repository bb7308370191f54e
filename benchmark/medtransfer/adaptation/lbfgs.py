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
    """Minimise P functions together, each with its own history, step size and stopping.

    The Hessian's diagonal scales the variables, renewed every few iterations. As a classifier
    becomes confident, the curvature falls by orders of magnitude, and the initial diagonal misleads
    for the rest of the run (500 iterations were too few where 150 are enough).

    Args:
        evaluate: Maps points (P', R, C) of some problems and the numbers (P',) of these problems
            to values (P',) and gradients (P', R, C).
        curvature: Maps the same to diagonals of the Hessians (P', R, C), above zero.
        start: (P, R, C); a problem with zero gradient here stops at once.

    Returns:
        The points (P, R, C) at which no step promises a relevant decrease.
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
        # The quadratic model promises a decrease of -slope/2. If the line search failed, rounding
        # hid the last decrease.
        going = (-slope > _TOLERANCE * value.clamp(min=1e-12)) & (length > 0)
        if not bool(going.all()):
            ends[problems] = x
            if not bool(going.any()):
                return ends
            # Drop the problems that have converged.
            problems, x, value, slope = problems[going], x[going], value[going], slope[going]
            gradient, direction = gradient[going], direction[going]
            history.keep(going)
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
    """Inner products (P,) of two batches (P, R, C)."""
    return (a * b).flatten(1).sum(1)


class _History:
    """The last M steps and changes of the gradient, and the inverse Hessian that they imply.

    It uses the compact form of Byrd, Nocedal and Schnabel (1994, theorem 2.2): a few
    matrix products, where the two-loop recursion needs 4 M operations, each of which waits
    for the one before: with S and Y the steps and changes (M, D), Z the scaling of the variables,
    g their overall size, T the upper triangle of S Y' and E its diagonal,

        H = g Z + [S' gZY'] [T^-T (E + g Y Z Y') T^-1, -T^-T; -T^-1, 0] [S; gYZ].
    """

    def __init__(self, like: Tensor) -> None:
        """Start with an empty history of problems (P, R, C)."""
        count, size = len(like), like[0].numel()
        self.steps, self.changes = (like.new_zeros((count, _HISTORY, size)) for _ in range(2))
        # Their inner products: of steps with changes, and of changes with changes scaled.
        self.mixed, self.own = (like.new_zeros((count, _HISTORY, _HISTORY)) for _ in range(2))
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
        self.own[:, : self._filled, : self._filled] = changes @ scaled.transpose(1, 2)

    def add(self, step: Tensor, change: Tensor) -> None:
        """Store a step and the change of the gradient, (P, R, C), over the oldest."""
        step, change = step.flatten(1), change.flatten(1)
        # A pair without curvature carries no information.
        curved = ((step * change).sum(1, keepdim=True) > 1e-30).to(step)
        slot = self.added % _HISTORY
        self.steps[:, slot], self.changes[:, slot] = step * curved, change * curved
        self.added += 1
        steps, changes = self.steps[:, : self._filled], self.changes[:, : self._filled]
        newest = self.changes[:, slot].unsqueeze(2)
        self.mixed[:, : self._filled, slot] = (steps @ newest).squeeze(2)
        along = changes @ self.steps[:, slot].unsqueeze(2)
        self.mixed[:, slot, : self._filled] = along.squeeze(2)
        own = (changes @ (newest * self.scale.unsqueeze(2))).squeeze(2)
        self.own[:, : self._filled, slot] = own
        self.own[:, slot, : self._filled] = own

    def keep(self, problems: Tensor) -> None:
        """Drop all but some problems, bool (P,)."""
        self.steps, self.changes = self.steps[problems], self.changes[problems]
        self.mixed, self.own = self.mixed[problems], self.own[problems]
        self.scale = self.scale[problems]

    def precondition(self, gradient: Tensor) -> Tensor:
        """Multiply gradients (P, R, C) by the inverse Hessian."""
        flat = gradient.flatten(1)
        if not self.added:
            return (self.scale * flat).view_as(gradient)
        filled = self._filled
        steps, changes = self.steps[:, :filled], self.changes[:, :filled]
        # T is upper triangular in order of time, which the slots need not follow.
        oldest, newest = self.added % filled, (self.added - 1) % filled
        order = (torch.arange(filled, device=flat.device) - oldest) % filled
        mixed, own = self.mixed[:, :filled, :filled], self.own[:, :filled, :filled]
        diagonal = mixed.diagonal(dim1=1, dim2=2)
        # An empty pair is zero everywhere, so it has no effect below.
        solvable = mixed * (order.unsqueeze(1) <= order) + torch.diag_embed(
            (diagonal == 0).to(flat)
        )
        factors = torch.linalg.lu_factor(solvable)
        size = mixed[:, newest, newest] / own[:, newest, newest]
        size = torch.where(size > 0, size, 1.0).view(-1, 1, 1)

        first = torch.linalg.lu_solve(*factors, steps @ flat.unsqueeze(2))
        across = changes @ (self.scale * flat).unsqueeze(2)
        inner = diagonal.unsqueeze(2) * first + size * (own @ first - across)
        second = torch.linalg.lu_solve(*factors, inner, adjoint=True)
        rest = flat.unsqueeze(1) - first.transpose(1, 2) @ changes
        result: Tensor = size * self.scale.unsqueeze(1) * rest + second.transpose(1, 2) @ steps
        return result.view_as(gradient)
