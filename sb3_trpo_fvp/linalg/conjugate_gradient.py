"""Conjugate gradients for (H + λI) s = g, with every way a solve can end named."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch as th

from sb3_trpo_fvp.linalg.arguments import require_number
from sb3_trpo_fvp.linalg.status import Status

Preconditioner: TypeAlias = Callable[[th.Tensor], th.Tensor]
"""r → M⁻¹r, (P,) → (P,), with a symmetric positive definite M."""


class CGStatus(Status):
    """How a conjugate-gradient solve ended."""

    CONVERGED = 0, "the residual is below the tolerance"
    MAX_STEPS = 1, "the allowed number of products was spent; the value is the best of its Krylov space, good for a TRPO step"
    ZERO_RHS = 2, "the right-hand side is zero, and so is the value: nothing was multiplied"
    NONPOSITIVE_CURVATURE = (
        3,
        "a direction with pᵀAp ≤ 0 (or rᵀM⁻¹r ≤ 0) was met; the value is the iterate before it",
        "raise the damping",
    )
    NONFINITE = 4, "NaN or infinity in the right-hand side or in a product; the value is the last finite iterate"


@dataclass(frozen=True)
class CGSolution:
    """
    What a conjugate-gradient solve returns.

    :param value: x, shape (P,), always finite
    :param residual_norm: ‖b − Ax‖ as the recurrence carries it
    :param num_steps: steps taken, each of one product (a start ``x0`` costs one more)
    :param status: how the solve ended
    :param quadratic_form: xᵀAx = xᵀ(b − r), from the recurrence and without another product
    """

    value: th.Tensor
    residual_norm: float
    num_steps: int
    status: CGStatus
    quadratic_form: float


@th.no_grad()
def conjugate_gradient(
    matvec: Callable[[th.Tensor], th.Tensor],
    b: th.Tensor,
    *,
    x0: th.Tensor | None = None,
    max_steps: int,
    rtol: float = 1e-5,
    atol: float = 0.0,
    preconditioner: Preconditioner | None = None,
) -> CGSolution:
    """
    Solve ``A x = b`` for a symmetric positive definite A known by its products (Hestenes and Stiefel, 1952; Nocedal
    and Wright, Numerical Optimization, algorithms 5.2 and 5.3).

    1. The start is zero, so that the first product is spent on b itself and no random number is drawn.
    2. The tolerance is relative to ‖b‖: a gradient of any scale gets the same number of steps.
    3. Non-positive curvature and non-finite numbers are outcomes, not accidents: the iterate before is returned.

    :param matvec: v → Av, shapes (P,) → (P,); must not change v
    :param b: right-hand side, shape (P,)
    :param x0: where to start, shape (P,); zero if None
    :param max_steps: the most steps to take, at least 1
    :param rtol: stop when ‖r‖ ≤ rtol · ‖b‖, with a preconditioner in the norm of M⁻¹ as well; in [0, ∞)
    :param atol: stop when ‖r‖ ≤ atol, in [0, ∞)
    :param preconditioner: r → M⁻¹r with a symmetric positive definite M close to A, (P,) → (P,); none by default
    :return: the solution and how it was reached
    :raises ValueError: if ``max_steps``, ``rtol`` or ``atol`` is outside its interval
    """
    require_number("max_steps", max_steps, "[1, ∞)", whole=True)
    require_number("rtol", rtol, "[0, ∞)")
    require_number("atol", atol, "[0, ∞)")

    largest = float(b.abs().max()) if b.numel() else 0.0
    # Solved for b over a power of two near its largest element: squares neither underflow nor overflow, no digit changes.
    scale = math.ldexp(1.0, math.frexp(largest)[1]) if math.isfinite(largest) else 1.0
    b = b / scale
    x = th.zeros_like(b) if x0 is None or largest == 0.0 else x0 / scale
    r = b.clone()

    def solution(status: CGStatus, num_steps: int) -> CGSolution:
        quadratic_form = float(th.dot(x.double(), (b - r).double())) * scale**2
        return CGSolution(x * scale, math.sqrt(max(rr, 0.0)) * scale, num_steps, status, quadratic_form)

    rr = float(th.dot(r, r))
    tolerance = rtol * math.sqrt(rr)
    if largest == 0.0:
        return solution(CGStatus.ZERO_RHS, 0)
    if x0 is not None:
        r -= matvec(x)
        rr = float(th.dot(r, r))
    if not math.isfinite(rr):
        x, rr = th.zeros_like(b), math.inf
        return solution(CGStatus.NONFINITE, 0)
    precondition = preconditioner or (lambda r: r)
    # rᵀM⁻¹r is close to the error in the norm of A. The plain norm alone does not see what is left in directions of little
    # curvature, which a preconditioned step reaches and the step's length depends on.
    z = precondition(b)
    largest_rz = rtol**2 * float(th.dot(b, z)) if preconditioner else math.inf
    p, rz = th.zeros_like(b), 1.0
    for step in range(max_steps + 1):
        if step > 0 or x0 is not None:
            z = precondition(r)
        last_rz, rz = rz, float(th.dot(r, z))
        norm = math.sqrt(rr)
        if norm <= atol / scale or (norm <= tolerance and rz <= largest_rz):
            return solution(CGStatus.CONVERGED, step)
        if step == max_steps:
            break
        p = z + (rz / last_rz) * p
        ap = matvec(p)
        curvature = float(th.dot(p, ap))
        if not (math.isfinite(curvature) and math.isfinite(rz)):
            return solution(CGStatus.NONFINITE, step)
        if curvature <= 0.0 or rz <= 0.0:
            return solution(CGStatus.NONPOSITIVE_CURVATURE, step)
        alpha = rz / curvature
        next_x, next_r = x + alpha * p, r - alpha * ap
        next_rr = float(th.dot(next_r, next_r))
        # One sum sees every element: a NaN or an infinity anywhere makes it non-finite.
        if not (math.isfinite(next_rr) and math.isfinite(float(next_x.sum() * scale))):
            return solution(CGStatus.NONFINITE, step)
        x, r, rr = next_x, next_r, next_rr
    return solution(CGStatus.MAX_STEPS, max_steps)
