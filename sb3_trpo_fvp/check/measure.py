"""What is measured of a Fisher operator."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_trpo_fvp.check.finding import Finding, tolerance
from sb3_trpo_fvp.fisher import FisherOperator
from sb3_trpo_fvp.linalg.conjugate_gradient import conjugate_gradient
from sb3_trpo_fvp.linalg.lanczos import ritz_values

_TINY = 1e-300


TOLERANCE = tolerance(th.float32)
"""Relative errors of single precision in a product through a network stay below this by an order of magnitude."""


@dataclass(frozen=True)
class OperatorReport:
    """
    What was measured of one operator F, against the exact Fisher matrix F*; numbers are NaN where they could not be.

    :param name: what ``fisher=`` calls it, or the class's name
    :param cosine: smallest of the cosines between Fv and F*v over random v
    :param relative_error: largest ‖Fv − F*v‖ / ‖F*v‖
    :param asymmetry: largest |uᵀFv − vᵀFu| · √P / (‖u‖ ‖Fv‖) over random u and v: about the relative size of F − Fᵀ
    :param smallest_ritz: a bound from above on the smallest eigenvalue (Lanczos)
    :param largest_ritz: a bound from below on the largest eigenvalue
    :param seconds: median time of a product
    :param problem: why the operator could not be built, empty if it could
    :param is_exact: what the class says of itself, see :attr:`FisherOperator.is_exact`
    :param step: what its step is worth; of approximations only
    :param findings: the promises of :func:`check_fisher_operator`
    """

    name: str
    cosine: float = math.nan
    relative_error: float = math.nan
    asymmetry: float = math.nan
    smallest_ritz: float = math.nan
    largest_ritz: float = math.nan
    seconds: float = math.nan
    problem: str = ""
    is_exact: bool = True
    step: "StepQuality | None" = None
    findings: tuple[Finding, ...] = ()

    @property
    def is_fisher(self) -> bool:
        """Whether nothing measured speaks against its being a symmetric positive semi-definite matrix."""
        return self.is_finite and self.is_symmetric and self.is_semidefinite

    @property
    def is_finite(self) -> bool:
        """Whether all products were."""
        return all(map(math.isfinite, (self.asymmetry, self.smallest_ritz, self.largest_ritz)))

    @property
    def is_symmetric(self) -> bool:
        """Whether F and Fᵀ agree up to rounding."""
        return self.asymmetry <= TOLERANCE

    @property
    def is_semidefinite(self) -> bool:
        """Whether no eigenvalue was found that is negative beyond rounding."""
        return self.smallest_ritz >= -TOLERANCE * abs(self.largest_ritz)


@dataclass(frozen=True)
class StepQuality:
    """
    What the step s = (F + λI)⁻¹g by an approximation F is worth, against that of the exact F*; g is of random advantages.

    :param efficiency: (gᵀs / √(sᵀF*s)) / (gᵀs* / √(s*ᵀF*s*)): improvement per unit of true KL, over that of the exact step
    :param kl_ratio: sᵀF*s / sᵀFs: the KL that a full step really has, over the ``target_kl`` that it aims at
    """

    efficiency: float
    kl_ratio: float


def measure_operator(
    name: str, operator: FisherOperator, vectors: list[th.Tensor], expected: list[th.Tensor] | None, lanczos_steps: int
) -> OperatorReport:
    """
    Multiply, time and compare.

    :param name: what to call it
    :param operator: F
    :param vectors: at least 2 vectors to multiply, each (P,)
    :param expected: their products with the exact Fisher matrix, None if it is not known
    :param lanczos_steps: products to spend on the Ritz values
    :return: what was measured
    """
    operator.matvec(vectors[0])  # not timed: a first product may allocate
    products, seconds = [], []
    for v in vectors:
        _synchronize(v.device)
        started = time.perf_counter()
        products.append(operator.matvec(v))
        _synchronize(v.device)
        seconds.append(time.perf_counter() - started)
    vectors, products = [v.double() for v in vectors], [product.double() for product in products]
    asymmetry = max(
        float((u @ fv - v @ fu).abs() * math.sqrt(len(v)) / (u.norm() * fv.norm() + _TINY))
        for u, fu, v, fv in zip(vectors[1:], products[1:], vectors, products, strict=False)
    )
    cosine = relative_error = math.nan
    if expected is not None:
        pairs = [(product, reference.double()) for product, reference in zip(products, expected, strict=True)]
        cosine = min(float(a @ b / (a.norm() * b.norm() + _TINY)) for a, b in pairs)
        relative_error = max(float((a - b).norm() / (b.norm() + _TINY)) for a, b in pairs)
    smallest, largest = ritz_values(operator.matvec, vectors[0].to(operator.dtype), lanczos_steps)
    numbers = (cosine, relative_error, asymmetry, smallest, largest, float(np.median(seconds)))
    return OperatorReport(name, *numbers, is_exact=operator.is_exact)


def measure_step(
    operator: FisherOperator, exact: FisherOperator, g: th.Tensor, damping: float, max_steps: int
) -> StepQuality | None:
    """
    Solve (F + λI)s = g with an approximation and with the exact matrix, and compare what the steps are worth.

    :param operator: F
    :param exact: F*
    :param g: a gradient, (P,)
    :param damping: λ
    :param max_steps: most conjugate-gradient steps
    :return: the comparison; None where a solve fails or a step has no curvature
    """

    def solve(matrix: FisherOperator) -> tuple[float, float, float]:
        """Return gᵀs, sᵀF*s and sᵀFs."""
        s = conjugate_gradient(lambda v: matrix.matvec(v) + damping * v, g, max_steps=max_steps, rtol=1e-3).value
        wide = s.double()
        true, own = (float(wide @ product.matvec(s).double()) for product in (exact, matrix))
        return float(g.double() @ wide), true, own

    slope, true, own = solve(operator)
    best_slope, best, _ = solve(exact)
    if not all(math.isfinite(form) and form > 0.0 for form in (true, own, best, best_slope)):
        return None
    return StepQuality((slope / math.sqrt(true)) / (best_slope / math.sqrt(best)), true / own)


def _synchronize(device: th.device) -> None:
    if device.type == "cuda":
        th.cuda.synchronize(device)
