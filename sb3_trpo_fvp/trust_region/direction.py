"""The natural gradient: which way to go, and how much the KL curves on that way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch as th

from sb3_trpo_fvp.distributed import ALONE, Communicator
from sb3_trpo_fvp.fisher import FisherOperator
from sb3_trpo_fvp.linalg.conjugate_gradient import CGSolution, Preconditioner, conjugate_gradient
from sb3_trpo_fvp.policies import num_observations


class DampedCurvature:
    """
    A = κF + λI over the states of all ranks: v → Av, and how often that was done.

    :param operator: F on this rank's states, (P, P)
    :param scale: κ, by which the constraint differs from the joint KL
    :param damping: λ ≥ 0
    :param comm: the ranks
    """

    def __init__(self, operator: FisherOperator, *, scale: float = 1.0, damping: float = 0.0, comm: Communicator = ALONE):
        self.operator = operator
        self.scale = scale
        self.damping = damping
        self.comm = comm
        self.num_products = 0

    def undamped(self, v: th.Tensor) -> th.Tensor:
        """
        :param v: shape (P,)
        :return: κFv, shape (P,)
        """
        self.num_products += 1
        return self.scale * self._average([self.operator.matvec(v)])[0]

    def __call__(self, v: th.Tensor) -> th.Tensor:
        """
        :param v: shape (P,)
        :return: κFv + λv, shape (P,)
        """
        return self.undamped(v) + self.damping * v

    def preconditioner(self) -> Preconditioner | None:
        """:return: the operator's approximation of A⁻¹ up to a constant, which does not matter; None if it has none"""
        return self.operator.preconditioner(self.damping / self.scale, self._average)

    def _average(self, tensors: Sequence[th.Tensor]) -> list[th.Tensor]:
        return self.comm.mean(tensors, num_observations(self.operator.observations))


@dataclass(frozen=True)
class Direction:
    """
    Where the surrogate rises most for the KL that it costs.

    :param gradient: g, shape (P,)
    :param value: s with (H + λI) s = g, shape (P,)
    :param curvature: sᵀHs, or sᵀ(H + λI)s where that was asked for; not positive or not finite if there is no step along s
    :param solution: how the linear solve ended
    """

    gradient: th.Tensor
    value: th.Tensor
    curvature: float
    solution: CGSolution

    @property
    def slope(self) -> float:
        """gᵀs, in double precision."""
        return float(th.dot(self.gradient.double(), self.value.double()))

    @property
    def relative_residual(self) -> float:
        """‖g − (H + λI)s‖ / ‖g‖, 0 without a finite gradient."""
        g_norm = _norm(self.gradient)
        return self.solution.residual_norm / g_norm if 0.0 < g_norm < math.inf else 0.0

    @property
    def gradient_cosine(self) -> float:
        """cos(s, g): at 1 the step is the plain gradient's, NaN without a direction."""
        norms = _norm(self.gradient) * _norm(self.value)
        return self.slope / norms if 0.0 < norms < math.inf else math.nan


def natural_gradient(
    g: th.Tensor,
    curvature: DampedCurvature,
    *,
    max_steps: int,
    rtol: float,
    precondition: bool = True,
    damped_curvature: bool = False,
) -> Direction:
    """
    Solve (H + λI) s = g by conjugate gradients (TRPO, appendix C).

    sᵀHs comes from the solver's own state, sᵀ(H + λI)s = sᵀ(g − r), and costs no product, unless the difference to λsᵀs would
    lose half of its digits.

    :param g: gradient of the surrogate, shape (P,)
    :param curvature: H + λI
    :param max_steps: most products to spend
    :param rtol: relative residual at which the direction is good enough
    :param precondition: whether to use the operator's preconditioner, if it has one
    :param damped_curvature: whether to return sᵀ(H + λI)s for sᵀHs
    :return: the direction
    """
    preconditioner = curvature.preconditioner() if precondition else None
    solution = conjugate_gradient(curvature, g, max_steps=max_steps, rtol=rtol, preconditioner=preconditioner)
    shs = solution.quadratic_form
    if not damped_curvature:
        s = solution.value.double()
        shs -= curvature.damping * float(th.dot(s, s))
        if solution.num_steps > 0 and shs < 1e-3 * solution.quadratic_form:
            shs = float(th.dot(s, curvature.undamped(solution.value).double()))
    return Direction(g, solution.value, shs, solution)


def _norm(vector: th.Tensor) -> float:
    """In double precision: squares of a finite gradient may overflow."""
    return float(th.linalg.vector_norm(vector.double()))
