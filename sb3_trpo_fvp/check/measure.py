"""What is measured of a Fisher operator."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_trpo_fvp.fisher import FisherOperator
from sb3_trpo_fvp.linalg.lanczos import ritz_values

REFERENCE = "kl_hessian"
"""The operator that needs no more than the definition, to which the others are compared."""


_TINY = 1e-300


TOLERANCE = 1e-3
"""Relative errors of single precision in a product through a network stay below this by an order of magnitude."""


@dataclass(frozen=True)
class OperatorReport:
    """
    What was measured of one operator F; numbers are NaN where they could not be.

    :param name: what ``fisher=`` calls it, or the class's name
    :param cosine: smallest of the cosines between Fv and F_ref v over random v
    :param relative_error: largest ‖Fv − F_ref v‖ / ‖F_ref v‖
    :param asymmetry: largest |uᵀFv − vᵀFu| / (‖u‖ ‖Fv‖)
    :param smallest_ritz: a bound from above on the smallest eigenvalue (Lanczos)
    :param largest_ritz: a bound from below on the largest eigenvalue
    :param seconds: median time of a product
    :param problem: why the operator could not be built, empty if it could
    """

    name: str
    cosine: float = math.nan
    relative_error: float = math.nan
    asymmetry: float = math.nan
    smallest_ritz: float = math.nan
    largest_ritz: float = math.nan
    seconds: float = math.nan
    problem: str = ""

    @property
    def is_fisher(self) -> bool:
        """Whether nothing measured speaks against its being a symmetric positive semi-definite matrix."""
        measured = (self.asymmetry, self.smallest_ritz, self.largest_ritz)
        finite = all(map(math.isfinite, measured))
        return finite and self.asymmetry <= TOLERANCE and self.smallest_ritz >= -TOLERANCE * abs(self.largest_ritz)


def measure_operator(
    name: str, operator: FisherOperator, vectors: list[th.Tensor], expected: list[th.Tensor] | None, lanczos_steps: int
) -> OperatorReport:
    """
    Multiply, time and compare.

    :param name: what to call it
    :param operator: F
    :param vectors: at least 2 vectors to multiply, each (P,)
    :param expected: their products with the reference, None if there is none
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
        float((u @ fv - v @ fu).abs() / (u.norm() * fv.norm() + _TINY))
        for u, fu, v, fv in zip(vectors[1:], products[1:], vectors, products, strict=False)
    )
    cosine = relative_error = math.nan
    if expected is not None:
        pairs = [(product, reference.double()) for product, reference in zip(products, expected, strict=True)]
        cosine = min(float(a @ b / (a.norm() * b.norm() + _TINY)) for a, b in pairs)
        relative_error = max(float((a - b).norm() / (b.norm() + _TINY)) for a, b in pairs)
    smallest, largest = ritz_values(operator.matvec, vectors[0].to(operator.dtype), lanczos_steps)
    return OperatorReport(name, cosine, relative_error, asymmetry, smallest, largest, float(np.median(seconds)))


def _synchronize(device: th.device) -> None:
    if device.type == "cuda":
        th.cuda.synchronize(device)
