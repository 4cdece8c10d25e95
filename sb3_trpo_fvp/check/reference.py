"""Which of the two exact operators is the Fisher matrix, where they differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch as th

from sb3_trpo_fvp.check.finding import relative_error
from sb3_trpo_fvp.check.measure import TOLERANCE
from sb3_trpo_fvp.distributions import DistributionFamily, Phi
from sb3_trpo_fvp.fisher import FisherOperator, GaussNewton, KLHessian

FORM_TOLERANCE = 1e-2
"""Of a quadratic form by finite differences: where the KL is |x|³ beside its x², they are of first order in the step."""


class Verdict(Enum):
    """What comparing ``gauss_newton`` and ``kl_hessian`` with differences of the KL says of the distribution's family."""

    AGREE = 0
    """The two agree, or there are not two."""
    KINKED_KL = 1
    """``gauss_newton`` is right: autograd has no second derivative of the KL, |x| for example, where old and new agree."""
    WRONG_FISHER = 2
    """``kl_hessian`` is right: ``fisher`` of the family is not the Hessian of its ``kl``."""
    BOTH_WRONG = 3
    """Neither has the curvature of the KL itself."""


@dataclass(frozen=True)
class Reference:
    """
    The operator that the others are compared to.

    :param name: its name; ``"kl_hessian"``, which needs no more than the definition, wherever it is right
    :param verdict: how it was found
    """

    name: str
    verdict: Verdict = Verdict.AGREE


def find_reference(operators: Mapping[str, FisherOperator], v: th.Tensor) -> Reference:
    """
    Compare the two exact operators; where they differ, differences of the KL decide.

    :param operators: those that could be built, by name
    :param v: a random vector, (P,)
    :return: what to compare the others to
    """
    hessian, gauss_newton = operators.get(KLHessian.name), operators.get(GaussNewton.name)
    if hessian is None or gauss_newton is None:
        return Reference(KLHessian.name)
    products = hessian.matvec(v), gauss_newton.matvec(v)
    error = relative_error(products[1], products[0])
    if error <= TOLERANCE or not math.isfinite(error):
        return Reference(KLHessian.name)
    curvature = _curvature(gauss_newton, v)
    is_right = [abs(float(v.double() @ p.double()) - curvature) <= FORM_TOLERANCE * abs(curvature) for p in products]
    if is_right[0]:
        return Reference(KLHessian.name, Verdict.WRONG_FISHER)
    return Reference(GaussNewton.name, Verdict.KINKED_KL) if is_right[1] else Reference(KLHessian.name, Verdict.BOTH_WRONG)


def _curvature(operator: FisherOperator, v: th.Tensor) -> float:
    """Mean over states of the curvature of the KL along Jv."""
    total = 0.0
    for chunk in operator.actor.chunks:
        family, phi = operator.actor.phi(chunk, GaussNewton.name)
        curvature = kl_curvature(family, phi.outputs, phi.jvp(v))
        total += curvature * len(phi.outputs[0])
    return total / operator.actor.size


def kl_curvature(family: DistributionFamily, phi: Phi, u: Phi) -> float:
    """
    Take the mean over states of uᵀ(∇²KL)u from differences of the KL itself, without a derivative.

    (KL(φ ‖ φ + hu) + KL(φ ‖ φ − hu)) / h², with h such that these KLs are near 1e-6 nats. Where the KL has |x| in it, autograd
    takes a slope of 0 at the kink for the truth, and a second derivative with it; differences do not.

    :param family: what φ are the parameters of
    :param phi: φ in N states, taken to double precision here
    :param u: direction, shaped as φ
    :return: nats
    """
    phi, u = ((tuple(tensor.detach().double() for tensor in tensors)) for tensors in (phi, u))
    largest = max((float(tensor.abs().max()) for tensor in u if tensor.numel()), default=0.0)
    if not 0.0 < largest < math.inf:
        return 0.0 if largest == 0.0 else math.nan

    def kl(h: float) -> float:
        return float(family.kl(phi, tuple(p + h * t for p, t in zip(phi, u, strict=True))).sum(-1).mean())

    h = 1e-4 / largest
    first = kl(h)
    if first > 0.0:
        h *= min(math.sqrt(1e-6 / first), 1e3)
    return (kl(h) + kl(-h)) / h**2
